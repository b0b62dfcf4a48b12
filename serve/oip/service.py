"""The gRPC services: the Open Inference Protocol under its public name, and ours beside it, over messages of our own.

Serve imports this in its controller and proxies, so it knows the messages and nothing else of ours.
"""

from __future__ import annotations

from typing import Any

import grpc

from serve.oip import oip_pb2

SERVICE = "inference.GRPCInferenceService"
METHODS = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
SERVICES = {SERVICE: METHODS, "trimtab.Feedback": ("Feedback",), "trimtab.Retrain": ("Retrain",)}


def add_to_server(servicer: Any, server: Any) -> None:
    """`servicer` has one method per name in `SERVICES`, each of a request and a context."""
    for service, methods in SERVICES.items():
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                getattr(servicer, method),
                request_deserializer=getattr(oip_pb2, f"{method}Request").FromString,
                response_serializer=getattr(oip_pb2, f"{method}Response").SerializeToString,
            )
            for method in methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
