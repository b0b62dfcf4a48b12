"""The command line: one function per verb, and the one place that turns errors into words and exit codes.

Data goes to stdout and words to stderr. Whatever loads Ray, torch or MLflow is imported inside the verbs
that need it, so that help and validation stay instant.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.config import Experiment
from cluster.errors import ConfigError, TrimtabError, UserError
from trimtab import given

if TYPE_CHECKING:
    from trimtab.workspace import Workspace

app = typer.Typer(
    name="trimtab",
    help="From raw data to an endpoint that keeps its promises, on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(importlib.metadata.version("trimtab"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


config_app = typer.Typer(help="The experiment file's format.", no_args_is_help=True)
app.add_typer(config_app, name="config")

kubernetes_app = typer.Typer(help="The same experiment on Kubernetes, through KubeRay.", no_args_is_help=True)
app.add_typer(kubernetes_app, name="kubernetes")

File = Annotated[str, typer.Argument(metavar="FILE", help="Experiment file (YAML).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override: --set train.epochs=3")]
StoreAt = Annotated[
    str | None, typer.Option("--store", envvar="TRIMTAB_STORE", help="Folder or URI for datasets and models.")
]
Cluster = Annotated[str, typer.Option("--cluster", envvar="TRIMTAB_CLUSTER", help="Name of the local cluster.")]
Address = Annotated[
    str | None, typer.Option("--address", envvar="TRIMTAB_ADDRESS", help="Dashboard URL of another Ray cluster.")
]
Inline = Annotated[
    bool,
    typer.Option("--inline", help="Run in this process instead of as Ray Jobs; one worker then needs no Ray Train."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Settings = Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Of the replicas, or replicas=N.")]
Force = Annotated[bool, typer.Option("--force", help="Also a version that the gate would refuse.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


Overlay = Annotated[
    str | None, typer.Option("--overlay", help="local, production, gpu, incremental, or a folder of your own.")
]


@app.command()
def run(
    given_by: typer.Context,
    file: File,
    overrides: Set = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    inline: Inline = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="On Kubernetes, through KubeRay.")] = False,
    context: Annotated[str | None, typer.Option("--context", help="Of the kubeconfig; with --kubernetes.")] = None,
    overlay: Overlay = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Then stay, and say what the loop of feedback and retraining does.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Do it all: preprocess, tune (where asked), train, evaluate, deploy; skip what has not changed."""
    _refuse_flags(given_by, kubernetes)
    if kubernetes:
        from trimtab.kubernetes import run as on_kubernetes

        screen = _workspace(as_json).screen
        on_kubernetes.run(_checked(file, overrides), screen, context, overlay, dry_run)
        return
    workspace = _workspace(as_json, cluster, address, store)
    _run("deploy", file, overrides, workspace, inline, dry_run)
    if watch and not dry_run:
        from trimtab import history as past

        past.follow(given.experiment(file, overrides or ()), workspace)


@app.command()
def preprocess(
    file: File,
    overrides: Set = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    inline: Inline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Clean, split and shard the data."""
    _run("preprocess", file, overrides, _workspace(as_json, cluster, address, store), inline, dry_run)


@app.command()
def tune(
    file: File,
    overrides: Set = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    inline: Inline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Search for the best settings under the budget of the file's tune section."""
    _run("tune", file, overrides, _workspace(as_json, cluster, address, store), inline, dry_run)


@app.command()
def train(
    file: File,
    overrides: Set = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    inline: Inline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train on the prepared data (prepares it when needed)."""
    _run("train", file, overrides, _workspace(as_json, cluster, address, store), inline, dry_run)


@app.command()
def evaluate(
    file: File,
    overrides: Set = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    inline: Inline = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Measure the trained model on the test split and make it a model version."""
    _run("evaluate", file, overrides, _workspace(as_json, cluster, address, store), inline, dry_run)


@app.command()
def deploy(
    file: File,
    version: Annotated[str, typer.Option(help="Number, alias or `latest`.")] = "latest",
    overrides: Set = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Serve a model version that exists, with the file's serve section."""
    experiment = given.experiment(file, overrides or ())
    workspace = _workspace(as_json, cluster, address, store)
    from trimtab import endpoint

    found = workspace.registry.version(experiment.name, version)
    if dry_run:
        workspace.screen.record({"would deploy": found.name, "version": found.version, "bundle": found.bundle})
        return
    with workspace.screen:
        served = endpoint.deploy(experiment, found, workspace, workspace.cluster_or_new())
    workspace.screen.record({"model": found.name, "version": found.version, "endpoint": served})


@app.command()
def undeploy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the endpoint, as `trimtab status` lists it.")],
    cluster: Cluster = "default",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take one endpoint off the cluster, its replicas and its adaptation; versions, data and records stay."""
    from serve import deploy as deployment

    workspace = _workspace(as_json, cluster, address)
    version, route = (deployment.serving if dry_run else deployment.undeploy)(workspace.cluster(), name)
    workspace.screen.record({"would take away" if dry_run else "took away": name, "version": version, "route": route})


@app.command()
def rollback(
    file: File,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take back a version that is being tried; else serve the one before the stable one again, in place."""
    from trimtab import endpoint, rollout

    experiment, workspace = given.experiment(file), _workspace(as_json, cluster, address, store)
    if (said := rollout.taken_back(experiment, workspace, dry_run=dry_run)) is not None:
        workspace.screen.record(said)
        return
    if dry_run:
        found = workspace.registry.version(experiment.name, "previous")
        workspace.screen.record({"would serve": found.name, "version": found.version, "bundle": found.bundle})
        return
    with workspace.screen:
        found, served = endpoint.rollback(experiment, workspace, workspace.cluster())
    workspace.screen.record({"model": found.name, "version": found.version, "endpoint": served})


@app.command()
def canary(
    file: File,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Number, alias or `latest`.")],
    force: Force = False,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Try a version beside the stable one: unseen, then for a growing share of the requests, judged all the while."""
    from trimtab import rollout

    experiment, workspace = given.experiment(file), _workspace(as_json, store=store)
    found = workspace.registry.version(experiment.name, version)
    workspace.screen.record(rollout.canary(experiment, found, workspace, force=force))


@app.command()
def promote(
    file: File,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="By default the one being tried.")] = "",
    force: Force = False,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Have a version answer all requests now, without waiting for what is still to be shown."""
    from trimtab import rollout

    experiment, workspace = given.experiment(file), _workspace(as_json, store=store)
    found = workspace.registry.version(experiment.name, version) if version else None
    workspace.screen.record(rollout.promote(experiment, found, workspace, force=force))


@app.command()
def retrain(
    file: File,
    overrides: Set = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it has ended; exit code 3 when its gate refuses it.")
    ] = False,
    store: StoreAt = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Order a new training with what came back since; the endpoint goes on, and a gate judges what it makes."""
    from trimtab import retrain as again

    experiment, workspace = _checked(file, overrides), _workspace(as_json, store=store)
    if dry_run:
        workspace.screen.record(again.outlook(experiment, workspace))
        return
    made = again.order(experiment, workspace)
    said: dict[str, object] = {"endpoint": made.name, "order": made.id, "job": made.job_id}
    if wait:
        with workspace.screen:
            result = again.wait(made, experiment, workspace)
        said |= {"fate": result.fate, "version": result.version, "words": result.words}
    workspace.screen.record(said)


@app.command()
def history(
    name: Annotated[str, typer.Argument(help="Of the model and the endpoint.")],
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Show the life of each version: ordered by what, trained on what, gate, rollout, fate; with --json all figures."""
    from trimtab import history as past

    workspace = _workspace(as_json, store=store)
    found = past.lives(name, workspace)
    workspace.screen.rows(found if as_json else past.table(found))


@app.command()
def plan(
    file: File,
    overrides: Set = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Say which steps `run` would do, and why."""
    _plan("deploy", _checked(file, overrides), _workspace(as_json, cluster, address, store))


@app.command()
def validate(file: File, overrides: Set = None, as_json: Json = False) -> None:
    """Check an experiment file without running anything; of one's own task every method is tried on a few rows."""
    experiment = _checked(file, overrides)
    screen = _workspace(as_json).screen
    if ":" in experiment.task:
        from trimtab import taskcheck

        screen.word("task", taskcheck.tried(experiment))
    if as_json:
        screen.json(experiment.model_dump(mode="json"))
    else:
        screen.text(f"{file} is valid: {experiment.name}, task {experiment.task}")


@config_app.command("schema")
def config_schema(as_json: Json = True) -> None:  # noqa: ARG001 it is JSON in any case
    """The JSON schema of the experiment file, for editors."""
    typer.echo(json.dumps(Experiment.model_json_schema(), indent=2))


@kubernetes_app.command("render")
def kubernetes_render(
    file: File,
    overrides: Set = None,
    overlay: Overlay = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder; else stdout.")] = None,
    version: Annotated[str, typer.Option(help="Number, alias or `latest`, or KEY:NUMBER of a bundle.")] = "stable",
    pin: Annotated[bool, typer.Option("--pin", help="This version also where another was promoted since.")] = False,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Write the objects of an experiment for `kubectl apply`."""
    from trimtab.kubernetes import manifests, verbs

    experiment, workspace = given.experiment(file, overrides or ()), _workspace(as_json, store=store)
    found = verbs.version_of(experiment, version, workspace)
    served = found and dataclasses.replace(found, is_pinned=pin)
    made = verbs.files(experiment, served, overlay)
    if out is not None:
        workspace.screen.record({"wrote": [str(path) for path in manifests.write(made, out)]})
    elif as_json:
        workspace.screen.json([one for objects in made.values() for one in objects])
    else:
        workspace.screen.text(manifests.dump(one for objects in made.values() for one in objects).rstrip())


@kubernetes_app.command("check")
def kubernetes_check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of manifests, or of a kustomization.")],
    as_json: Json = False,
) -> None:
    """Find what KubeRay would refuse, or do otherwise than it reads, without a cluster."""
    from trimtab.kubernetes import check

    screen = _workspace(as_json).screen
    num_objects, found = check.folder(folder)
    screen.rows([vars(one) for one in found])
    screen.word("kubernetes", f"{num_objects} objects, {len(found)} findings")
    if found:
        raise typer.Exit(1)


@app.command()
def up(
    num_cpus: Annotated[
        int | None, typer.Option(min=1, help="Logical CPUs; by default the machine's, 4 or more.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="HTTP port of the endpoints.")] = None,
    store: StoreAt = None,
    cluster: Cluster = "default",
    as_json: Json = False,
) -> None:
    """Start a local cluster that outlives this command."""
    workspace = _workspace(as_json, cluster, None, store)
    made = workspace.up(num_cpus, port)
    workspace.screen.record(
        {"cluster": made.name, "dashboard": made.dashboard_url, "http port": made.http_port, "store": made.store}
    )


@app.command()
def down(cluster: Cluster = "default", dry_run: DryRun = False, as_json: Json = False) -> None:
    """Stop the local cluster, and that one alone. Datasets and models stay."""
    workspace = _workspace(as_json, cluster)
    from cluster import session

    if dry_run:
        stopped = False
        workspace.screen.word("cluster", f"would stop {cluster}")
    else:
        stopped = session.down(cluster)
        workspace.screen.word("cluster", f"{cluster} is {'down' if stopped else 'not running'}")
    if as_json:
        workspace.screen.json({"cluster": cluster, "stopped": stopped})


@app.command()
def status(cluster: Cluster = "default", address: Address = None, as_json: Json = False) -> None:
    """Show the cluster, its endpoints and its jobs."""
    from cluster import session

    workspace = _workspace(as_json, cluster, address)
    workspace.screen.tree(session.status(cluster, address))


@app.command()
def predict(
    file: File,
    body: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, a text (.txt), or JSON with `instances`.")],
    cluster: Cluster = "default",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Ask the endpoint of an experiment for one answer."""
    from trimtab import endpoint

    workspace = _workspace(as_json, cluster, address)
    workspace.screen.record(endpoint.predict(given.experiment(file), body, workspace.cluster()))


@app.command()
def feedback(
    file: File,
    words: Annotated[
        Path | None,
        typer.Argument(metavar="[WORDS]", help="JSON lines or CSV: request_id and label, rating or outcome."),
    ] = None,
    cluster: Cluster = "default",
    address: Address = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Tell an endpoint what was right about its answers; without WORDS, show what that came to so far."""
    from trimtab import feedback as said

    workspace = _workspace(as_json, cluster, address, store)
    experiment = given.experiment(file)
    if words is None:
        workspace.screen.record(said.summary(experiment, workspace))
    else:
        workspace.screen.record(said.send(experiment, words, workspace.cluster()))


@app.command()
def drift(
    file: File,
    window: Annotated[int, typer.Option(min=20, max=10_000, help="Answers in a window.")] = 100,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Say whether an endpoint's answers still look like those its model was tested on."""
    from trimtab import drift as looking

    workspace = _workspace(as_json, store=store)
    workspace.screen.record(looking.look(given.experiment(file), workspace, window))


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="Model; without it, all of them.")] = None,
    version: Annotated[str | None, typer.Option(help="Show this version's model card.")] = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """List models and their versions, or show a version's card (with --json its figures and its ladder)."""
    from trimtab import catalogue

    workspace = _workspace(as_json, store=store)
    if name and version and as_json:
        workspace.screen.json(catalogue.version(name, version, workspace))
    elif name and version:
        workspace.screen.text(catalogue.card(name, version, workspace))
    else:
        workspace.screen.rows(catalogue.versions(name, workspace))


@app.command()
def logs(
    job: Annotated[str | None, typer.Argument(help="Job; without it, all jobs are listed.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    cluster: Cluster = "default",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show a job's log, or list the jobs."""
    from trimtab import joblog

    workspace = _workspace(as_json, cluster, address)
    if job is None:
        workspace.screen.rows(joblog.rows(workspace.cluster()))
    else:
        joblog.show(workspace.cluster(), job, follow, workspace.screen)


@app.command()
def stop(
    job: Annotated[str, typer.Argument(help="Job, as `trimtab logs` lists it.")],
    cluster: Cluster = "default",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Stop a job, running or waiting, and wait until it has ended; a training keeps a checkpoint first."""
    from cluster import submit

    workspace = _workspace(as_json, cluster, address)
    stopped = not dry_run and submit.stop(workspace.cluster(), job)
    workspace.screen.record({"job": job, "stopped": stopped})


@app.command()
def doctor(store: StoreAt = None, as_json: Json = False) -> None:
    """Say whether this machine is fit, and how to mend it."""
    from trimtab import doctor as physician

    screen = _workspace(as_json).screen
    checks = physician.checks(store)
    screen.rows([{"check": c.name, "state": c.state, "found": c.words, "mend": c.mend} for c in checks])
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


@app.command()
def init(
    data: Annotated[str | None, typer.Option(help="Your data; without it, scikit-learn's digits.")] = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("experiment.yaml"),
    name: Annotated[str | None, typer.Option(help="Name of the model; by default the data's.")] = None,
    task: Annotated[
        Literal["images", "sentiment", "answers", "recommend", "custom"] | None,
        typer.Option(help="By default what the data looks like; `custom` writes a task of your own too."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a commented experiment file that fits your data, or the skeleton of a task of your own."""
    from trimtab import scaffold, skeleton

    screen = _workspace(as_json).screen
    if task == "custom":
        files = skeleton.skeleton(name or scaffold.name_from(Path(data or "mine")), data, out)
        screen.record({"wrote": [str(path) for path in files], "next": f"trimtab validate {out}"})
        return
    made = scaffold.scaffold(name or scaffold.name_from(Path(data or "digits")), data, out, task)
    screen.record({"wrote": str(made), "next": f"trimtab run {made}"})


# The adaptation of an endpoint


@app.command()
def watch(
    file: File,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Watch an endpoint live: objective, arrivals, delay, rungs, replicas, the last decisions and why."""
    from trimtab import adaptation

    adaptation.watch(given.experiment(file), _workspace(as_json, store=store), once=once, every_s=every)


@app.command()
def explain(file: File, store: StoreAt = None, as_json: Json = False) -> None:
    """Say why an endpoint is as it is: its target, rungs, replicas, refusals, and the last decisions."""
    from trimtab import adaptation

    workspace = _workspace(as_json, store=store)
    found = adaptation.explained(given.experiment(file), workspace)
    if as_json:
        workspace.screen.json(dataclasses.asdict(found))
    else:
        workspace.screen.text("\n".join(found.lines()))


@app.command()
def replay(
    journal: Annotated[str, typer.Argument(help="Folder of a journal or one of its files; a path or a URI.")],
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Make a journal's decisions once more: the same ones, or with --set adapt.dwell=10s what would differ."""
    from trimtab import adaptation

    screen = _workspace(as_json).screen
    found = adaptation.replayed(journal, overrides or ())
    if as_json:
        screen.json(found)
        return
    differences, problems = found.pop("differences"), found.pop("problems")
    screen.record(found)
    screen.rows(differences)
    screen.text("\n".join(problems)) if problems else None


@app.command()
def pause(file: File, store: StoreAt = None, as_json: Json = False) -> None:
    """Let the endpoint stay as it is until `resume`; it is still watched."""
    _order("pause", file, store, as_json)


@app.command()
def resume(file: File, store: StoreAt = None, as_json: Json = False) -> None:
    """Let the endpoint be adapted again."""
    _order("resume", file, store, as_json)


@app.command()
def pin(file: File, settings: Settings, store: StoreAt = None, as_json: Json = False) -> None:
    """Set values and keep them there: replicas=2 variants=onnx-int8 max_batch=16."""
    _order("pin", file, store, as_json, settings)


@app.command()
def unpin(
    file: File,
    fields: Annotated[list[str] | None, typer.Argument(help="What to let go; everything without it.")] = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """Let pinned values be adapted again."""
    _order("unpin", file, store, as_json, fields=fields or ())


@app.command("set")
def set_values(file: File, settings: Settings, store: StoreAt = None, as_json: Json = False) -> None:
    """Set values once; adaptation may change them later."""
    _order("set", file, store, as_json, settings)


# A stream of events, watched


@app.command()
def monitor(
    file: File,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="JSON lines: a file, or - for stdin.")],
    overrides: Set = None,
    topics: Annotated[Path | None, typer.Option(help="YAML file of topics, instead of alerts.topics.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more at the end of a file.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what the last run knew.")] = False,
    patience: Annotated[float, typer.Option(min=1.0, help="Seconds that the endpoint may be away.")] = 600.0,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds for the webhook at the end.")] = 10.0,
    store: StoreAt = None,
    cluster: Cluster = "default",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Ask the endpoint about each event of a stream, and raise alerts: surges, drift, silence."""
    from trimtab import monitor as watching

    watching.watch(
        given.experiment(file, overrides or ()), stream, _workspace(as_json, cluster, address, store),
        topics=topics, follow=follow, fresh=fresh, patience_s=patience, drain_s=drain,
    )  # fmt: skip


@app.command()
def alerts(
    file: File,
    since: Annotated[str | None, typer.Option(help="A duration, 2h, or a time, 2026-01-31T08:00 (UTC).")] = None,
    topic: Annotated[str | None, typer.Option(help="Of this topic alone.")] = None,
    undelivered: Annotated[bool, typer.Option("--undelivered", help="Those no webhook has got.")] = False,
    resend: Annotated[bool, typer.Option("--resend", help="Send those once more.")] = False,
    drain: Annotated[float, typer.Option(min=0.0, help="Seconds for the webhook, with --resend.")] = 30.0,
    store: StoreAt = None,
    as_json: Json = False,
) -> None:
    """List the alerts of `monitor`; with --json their evidence too."""
    from trimtab import alerts as kept
    from trimtab import monitor as watching

    screen = (workspace := _workspace(as_json, store=store)).screen
    if resend:
        screen.record(kept.resend(given.experiment(file), workspace, drain))
        return
    found = kept.found(given.experiment(file), workspace, since, topic, undelivered)
    if as_json:
        screen.json(found)
        return
    for entry in found:
        screen.text(watching.line(entry) + (f"  ({entry['why']})" if undelivered else ""))
    screen.word("alerts", f"{len(found)} found")


def main() -> None:
    """Entry point of the `trimtab` command."""
    try:
        app(standalone_mode=True)
    except TrimtabError as error:
        _say(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; say nothing and let go of stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _say(error: TrimtabError) -> None:
    if "--json" in sys.argv:
        tree: dict[str, object] = {"error": str(error), "exit_code": error.exit_code}
        if isinstance(error, UserError):
            tree |= {"field": error.field, "value": str(error.value), "mend": error.mend}
        typer.echo(json.dumps(tree))
    else:
        typer.echo(f"trimtab: {error}", err=True)


def _run(last: str, file: str, overrides: list[str] | None, workspace: Workspace, inline: bool, dry_run: bool) -> None:
    experiment = _checked(file, overrides)
    if last == "tune" and experiment.tune is None:
        mend = "add `tune: {space: {learning_rate: {log: [1.0e-4, 0.1]}}}`"
        raise ConfigError("tune", None, "is missing, so there is nothing to search", mend)
    if dry_run:
        _plan(last, experiment, workspace)
        return
    from trimtab import run as whole

    with workspace.screen:
        outcome = whole.run(experiment, workspace, last, inline)
    workspace.screen.record(outcome.table())
    if outcome.endpoint and not workspace.screen.as_json:
        workspace.screen.text(f"\ntry it:\n{outcome.curl()}")


def _refuse_flags(given_by: typer.Context, kubernetes: bool) -> None:
    """Flags of `run` that would be without effect where it runs. One in the environment stands for all commands."""
    names: tuple[str, ...]
    if kubernetes:
        names, problem = ("store", "cluster", "address", "inline", "watch"), "does not go with --kubernetes"
        mend = "leave one of the two away; the file's section kubernetes says where, --context which cluster"
    else:
        names, problem = ("context", "overlay"), "goes with --kubernetes alone"
        mend = "leave it away, or add --kubernetes"
    for name in names:
        source = given_by.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"--{name}", given_by.params[name], problem, mend)


def _checked(file: str, overrides: list[str] | None) -> Experiment:
    """The experiment, its search space too."""
    experiment = given.experiment(file, overrides or ())
    if experiment.tune is not None:
        from tune.spec import space_of

        space_of(experiment)
    return experiment


def _order(
    verb: str, file: str, store: str | None, as_json: bool, settings: Sequence[str] = (), fields: Sequence[str] = ()
) -> None:
    from trimtab import adaptation

    workspace = _workspace(as_json, store=store)
    workspace.screen.record(adaptation.order(verb, given.experiment(file), workspace, settings, fields))


def _plan(last: str, experiment: Experiment, workspace: Workspace) -> None:
    from trimtab import outlook

    workspace.screen.rows(outlook.rows(experiment, workspace, deploys=last == "deploy"))


def _workspace(
    as_json: bool, cluster: str = "default", address: str | None = None, store: str | None = None
) -> Workspace:
    from trimtab.screen import Screen
    from trimtab.workspace import Workspace

    return Workspace(Screen(as_json), cluster, address, store)
