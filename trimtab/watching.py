"""What a monitor works with, from the experiment, a file of topics and the environment. Opens no stream."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from cluster import experiment as experiments
from cluster.config import Experiment
from cluster.errors import UserError
from serve.watch.address import VARIABLE, allowed
from serve.watch.topics import Topics
from serve.watch.webhook import Webhook, secret_from_environment
from trimtab import given


def with_topics(experiment: Experiment, file: Path) -> Experiment:
    """The experiment with the topics of a YAML file. Raises UserError, ConfigError."""
    try:
        data = file.read_bytes()
        given.check("--topics", str(file), data)
        found = yaml.safe_load(data)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError("--topics", str(file), f"cannot be read ({str(error)[:80]})", "name a YAML file") from None
    tree = experiment.model_dump(mode="json")
    tree["alerts"]["topics"] = found
    return experiments.parse(tree)


def topics_of(experiment: Experiment) -> Topics:
    """Raises ConfigError where a topic has a description and the encoder is missing."""
    if not any(topic.about for topic in experiment.alerts.topics.values()):
        return Topics(experiment.alerts)
    from serve.watch.likeness import embedder

    return Topics(experiment.alerts, embedder())


def webhook_of(experiment: Experiment) -> Webhook | None:
    """The one that the environment names. Raises ConfigError where it may not be used."""
    url = os.environ.get(VARIABLE)
    if not url:
        return None
    target = allowed(url, experiment.alerts.hosts, experiment.alerts.private_hosts)
    return Webhook(target, secret_from_environment())
