"""flagd's sync service (`flagd.sync.v1.FlagSyncService`): gives in-process providers the flags in flagd's own language.

Its messages are described here, as their field numbers are all that there is to them: no generated code is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, struct_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from crossfade.api.ofrep_source import Served, Source
from crossfade.api.ofrep_stream import HEARTBEAT, MOST_STREAMS, Channels, Listener
from crossfade.domain.errors import CrossfadeError, Forbidden, Invalid, NotFound, Refused, Unauthenticated

PACKAGE: Final = "flagd.sync.v1"
SERVICE: Final = f"{PACKAGE}.FlagSyncService"
LARGEST_REQUEST: Final = 64 * 1024

_STRING, _MESSAGE = descriptor_pb2.FieldDescriptorProto.TYPE_STRING, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_STRUCT: Final = ".google.protobuf.Struct"
_MESSAGES: Final[dict[str, dict[str, tuple[int, str]]]] = {
    "SyncFlagsRequest": {"provider_id": (1, ""), "selector": (2, "")},
    "SyncFlagsResponse": {"flag_configuration": (1, ""), "sync_context": (2, _STRUCT)},
    "FetchAllFlagsRequest": {"provider_id": (1, ""), "selector": (2, "")},
    "FetchAllFlagsResponse": {"flag_configuration": (1, "")},
    "GetMetadataRequest": {},
    "GetMetadataResponse": {"metadata": (2, _STRUCT)},
}
_STATUS: Final = (
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (Forbidden, grpc.StatusCode.PERMISSION_DENIED),
    (Invalid, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
)

_log = logging.getLogger(__name__)


def _messages() -> dict[str, Any]:
    """The classes of all messages, in a pool of their own: an application may have flagd's own beside them."""
    file = descriptor_pb2.FileDescriptorProto(name="crossfade/flagd_sync.proto", package=PACKAGE, syntax="proto3")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            described = message.field.add(name=field, number=number, label=1, type=_MESSAGE if kind else _STRING)
            if kind:
                described.type_name = kind
    pool = DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES}


class FlagdSync:
    """The service on a port of its own. ``pem`` are the files of the certificate and its key, where there is TLS: they are

    read for each new connection, so that renewing them needs no restart.
    """

    def __init__(self, source: Source, channels: Channels, address: str, pem: tuple[Path, Path] | None = None) -> None:
        self._source, self._channels, self._address, self._pem = source, channels, address, pem
        self._made = _messages()
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises Refused when the port is taken."""
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", LARGEST_REQUEST),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            )
        )
        made = self._made
        handlers = {
            "SyncFlags": grpc.unary_stream_rpc_method_handler(
                self._sync, made["SyncFlagsRequest"].FromString, made["SyncFlagsResponse"].SerializeToString
            ),
            "FetchAllFlags": grpc.unary_unary_rpc_method_handler(
                self._fetch, made["FetchAllFlagsRequest"].FromString, made["FetchAllFlagsResponse"].SerializeToString
            ),
            "GetMetadata": grpc.unary_unary_rpc_method_handler(
                self._metadata, made["GetMetadataRequest"].FromString, made["GetMetadataResponse"].SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        try:
            if self._pem is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                self.port = self._server.add_secure_port(self._address, self._credentials(self._pem))
        except RuntimeError as error:
            raise Refused(
                f"{self._address} cannot be used for flagd's sync service.", hint="Is the port taken? Choose another."
            ) from error
        await self._server.start()

    async def stop(self) -> None:
        """End all streams."""
        if self._server is not None:
            await self._server.stop(0.5)

    @staticmethod
    def _credentials(pem: tuple[Path, Path]) -> Any:
        certificate, key = pem

        def read() -> Any:
            pairs = [(key.read_bytes(), certificate.read_bytes())]
            return grpc.ssl_server_certificate_configuration(pairs)

        def renewed() -> Any:
            try:
                return read()
            except OSError as error:
                _log.warning("the TLS certificate cannot be read, the one before stays: %s", error)
                return None

        return grpc.dynamic_ssl_server_credentials(read(), renewed)

    # --- the calls

    async def _sync(self, request: Any, context: Any) -> AsyncIterator[Any]:
        key = await self._allowed(request.selector, context)
        if self._channels.open >= MOST_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many streams are open.")
        listener = Listener()
        channel = await self._channels.enter(key, listener)
        told = ""
        try:
            while not listener.closed:
                listener.woken.clear()
                text = await _lowered(channel.served)
                if text != told:
                    told = text
                    answer = self._made["SyncFlagsResponse"](flag_configuration=text)
                    answer.sync_context.SetInParent()
                    yield answer
                try:
                    await asyncio.wait_for(listener.woken.wait(), HEARTBEAT)
                except TimeoutError:
                    await self._allowed(request.selector, context)
        finally:
            self._channels.leave(key, listener)

    async def _fetch(self, request: Any, context: Any) -> Any:
        key = await self._allowed(request.selector, context)
        text = await _lowered(await self._source.served(key))
        return self._made["FetchAllFlagsResponse"](flag_configuration=text)

    async def _metadata(self, request: Any, context: Any) -> Any:
        answer = self._made["GetMetadataResponse"]()
        answer.metadata.SetInParent()  # there, and empty: some providers fail without it
        return answer

    async def _allowed(self, selector: str, context: Any) -> str:
        """The environment that a call is about. Ends the call when its token does not open that one."""
        said = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        token = said.get("authorization", "").removeprefix("Bearer ").strip() or said.get("x-api-key", "")
        named = said.get("flagd-selector") or selector
        for prefix in ("flagSetId=", "source="):
            named = named.removeprefix(prefix)
        if not token and named and "/" not in named:
            # Most providers can send a selector and no token: a replica's says whose it is.
            token, named = named, ""
        try:
            caller = await self._source.caller(token, named, "")
            await self._source.served(caller.key)
        except CrossfadeError as error:
            status = next((one for kind, one in _STATUS if isinstance(error, kind)), grpc.StatusCode.UNAVAILABLE)
            await context.abort(status, str(error))
            raise  # it has ended already
        return caller.key


async def _lowered(served: Served) -> str:
    return await asyncio.to_thread(lambda: served.lowered)
