"""A device plugin that tells the kubelet of GPUs that are not there.

It speaks the kubelet's device-plugin protocol (v1beta1), so the scheduler counts `nvidia.com/gpu`, a pod that asks for
more than there are waits, and a container is told which devices it got (`NVIDIA_VISIBLE_DEVICES`), as with NVIDIA's own
plugin. No device file is given and nothing computes on these GPUs.

`python -m infra.cluster.device_plugin COUNT` runs until it is stopped.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from infra.cluster.cluster import RESOURCE

FOLDER = Path("/var/lib/kubelet/device-plugins")  # the kubelet of this version looks nowhere else
_SOCKET = "regrow-gpu.sock"
_PACKAGE = "v1beta1"
_Field = descriptor_pb2.FieldDescriptorProto
# message -> its fields in the order of their numbers: name, kind, whether repeated. Only what is spoken here; a field
# that is not known is skipped by the protocol's own rules.
_MESSAGES: dict[str, list[tuple[str, str, bool]]] = {
    "Empty": [],
    "DevicePluginOptions": [],
    "PreStartContainerResponse": [],
    "PreferredAllocationResponse": [],
    "RegisterRequest": [
        ("version", "string", False),
        ("endpoint", "string", False),
        ("resource_name", "string", False),
    ],
    "Device": [("ID", "string", False), ("health", "string", False)],
    "ListAndWatchResponse": [("devices", "Device", True)],
    "ContainerAllocateRequest": [("devicesIDs", "string", True)],
    "AllocateRequest": [("container_requests", "ContainerAllocateRequest", True)],
    "Env": [("key", "string", False), ("value", "string", False)],  # how a map's entry is written
    "ContainerAllocateResponse": [("envs", "Env", True)],
    "AllocateResponse": [("container_responses", "ContainerAllocateResponse", True)],
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="regrow_device_plugin.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            entry = message.field.add(name=field, number=number)
            entry.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind == "string":
                entry.type = _Field.TYPE_STRING
            else:
                entry.type, entry.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


def known(count: int, folder: Path = FOLDER) -> bool:
    """Tell whether the kubelet that runs now has been told of that many GPUs by the plugin that runs now.

    The node's record shows for a while what was before. The kubelet's own list is written when a plugin registers, so
    it is newer than the sockets that both made when they started.
    """
    listed = folder / "kubelet_internal_checkpoint"
    try:
        started = max((folder / name).stat().st_mtime_ns for name in ("kubelet.sock", _SOCKET))
        if listed.stat().st_mtime_ns < started:
            return False
        devices = json.loads(listed.read_text(encoding="utf-8"))["Data"]["RegisteredDevices"] or {}
    except (OSError, ValueError, KeyError):
        return False
    return len(devices.get(RESOURCE, [])) == count


def forget(folder: Path = FOLDER) -> None:
    """Remove the socket that a killed plugin left."""
    (folder / _SOCKET).unlink(missing_ok=True)


class GpuPlugin:
    """Advertises a number of GPUs and hands them out.

    Args:
        count: how many.
        folder: of the kubelet's plugin sockets.
    """

    def __init__(self, count: int, folder: Path = FOLDER) -> None:
        self.devices = [f"gpu-{number}" for number in range(count)]
        self.folder = folder
        self.messages = _classes()
        self.stopped = threading.Event()

    def run(self) -> None:
        """Serve until stopped; register anew whenever the kubelet has restarted, which removes all sockets."""
        while not self.stopped.is_set():
            if not (self.folder / "kubelet.sock").exists():
                self.stopped.wait(0.5)
                continue
            try:
                self._serve()
            except grpc.RpcError as error:  # a kubelet that is not ready yet
                sys.stdout.write(f"not registered: {error.details()}\n")
                sys.stdout.flush()
                self.stopped.wait(1)

    def _serve(self) -> None:
        forget(self.folder)
        path = self.folder / _SOCKET
        server = grpc.server(futures.ThreadPoolExecutor(8))
        server.add_generic_rpc_handlers((self._handlers(),))
        server.add_insecure_port(f"unix://{path}")
        server.start()
        try:
            self._register()
            sys.stdout.write(f"registered {len(self.devices)} {RESOURCE}\n")
            sys.stdout.flush()
            while path.exists() and not self.stopped.wait(0.5):
                continue
        finally:
            server.stop(None)

    def _register(self) -> None:
        request = self.messages["RegisterRequest"](
            version="v1beta1", endpoint=_SOCKET, resource_name=RESOURCE
        )
        with grpc.insecure_channel(f"unix://{self.folder / 'kubelet.sock'}") as channel:
            call = channel.unary_unary(
                f"/{_PACKAGE}.Registration/Register",
                request_serializer=lambda one: one.SerializeToString(),
                response_deserializer=self.messages["Empty"].FromString,
            )
            call(request, timeout=10)

    def _handlers(self) -> grpc.GenericRpcHandler:
        def unary(request: str, answer: Callable[[Any], Any]) -> grpc.RpcMethodHandler:
            return grpc.unary_unary_rpc_method_handler(
                lambda asked, _context: answer(asked),
                request_deserializer=self.messages[request].FromString,
                response_serializer=lambda one: one.SerializeToString(),
            )

        empty = self.messages
        methods = {
            "GetDevicePluginOptions": unary("Empty", lambda _: empty["DevicePluginOptions"]()),
            "PreStartContainer": unary("Empty", lambda _: empty["PreStartContainerResponse"]()),
            "GetPreferredAllocation": unary("Empty", lambda _: empty["PreferredAllocationResponse"]()),
            "Allocate": unary("AllocateRequest", self._allocate),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                self._watch,
                request_deserializer=empty["Empty"].FromString,
                response_serializer=lambda one: one.SerializeToString(),
            ),
        }
        return grpc.method_handlers_generic_handler(f"{_PACKAGE}.DevicePlugin", methods)

    def _watch(self, _request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        device = self.messages["Device"]
        yield self.messages["ListAndWatchResponse"](
            devices=[device(ID=one, health="Healthy") for one in self.devices]
        )
        while context.is_active() and not self.stopped.wait(0.5):
            continue

    def _allocate(self, asked: Any) -> Any:
        containers = []
        for container in asked.container_requests:
            given = self.messages["Env"](key="NVIDIA_VISIBLE_DEVICES", value=",".join(container.devicesIDs))
            containers.append(self.messages["ContainerAllocateResponse"](envs=[given]))
        return self.messages["AllocateResponse"](container_responses=containers)


def main() -> int:
    """Run the plugin until SIGTERM."""
    plugin = GpuPlugin(int(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: plugin.stopped.set())
    plugin.run()
    forget(plugin.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
