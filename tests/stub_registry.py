"""A schema registry in a thread: the part of Confluent's REST API that flowguard asks."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

JSON = "application/vnd.schemaregistry.v1+json"


class StubRegistry:
    """Serves what was registered.

    Attributes:
        asked: How often each path was asked for.
        credentials: The last Authorization header.
        broken: Answer everything with this status and text, None to work.
        gate: Requests wait until it is set.
    """

    def __init__(self) -> None:
        self.schemas: dict[int, dict[str, Any]] = {}
        self.subjects: dict[str, list[int]] = {}
        self.asked: Counter[str] = Counter()
        self.credentials: str | None = None
        self.broken: tuple[int, bytes] | None = None
        self.gate = threading.Event()
        self.gate.set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stub.asked[self.path] += 1
                stub.credentials = self.headers["Authorization"]
                stub.gate.wait(30)
                status, content = stub.broken or stub.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Type", JSON)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def register(self, subject: str, schema: Any, *references: tuple[str, str, int]) -> int:
        """Add a version to a subject, and return the schema's number."""
        id = 100 + len(self.schemas)
        text = schema if isinstance(schema, str) else json.dumps(schema)
        named = [
            dict(zip(("name", "subject", "version"), each, strict=True)) for each in references
        ]
        self.schemas[id] = {"schema": text, **({"references": named} if named else {})}
        self.subjects.setdefault(subject, []).append(id)
        return id

    def answer(self, path: str) -> tuple[int, bytes]:
        parts = [unquote(part) for part in path.partition("?")[0].strip("/").split("/")]
        if parts[:2] == ["schemas", "ids"]:
            found = self.schemas.get(int(parts[2]))
            if found is None:
                return 404, b'{"error_code":40403,"message":"Schema not found"}'
            return 200, json.dumps(found).encode()
        if parts[0] == "subjects" and parts[1] in self.subjects:
            ids = self.subjects[parts[1]]
            id = ids[-1] if parts[3] == "latest" else ids[int(parts[3]) - 1]
            return 200, json.dumps({"subject": parts[1], "id": id, **self.schemas[id]}).encode()
        return 404, b'{"error_code":40401,"message":"Subject not found"}'


# ------------------------------------------------------------------ schemas


def record(name: str, **fields: Any) -> dict[str, Any]:
    """Return an Avro record schema."""
    members = [{"name": each, "type": kind} for each, kind in fields.items()]
    return {"type": "record", "name": name, "fields": members}


def message(name: str, **fields: Any) -> DescriptorProto:
    """Return a protobuf message; a field is a type number, or keywords of its descriptor."""
    found = DescriptorProto(name=name)
    for number, (field, given) in enumerate(fields.items(), 1):
        options = {"type": given} if isinstance(given, int) else dict(given)
        options.setdefault("label", FieldDescriptorProto.LABEL_OPTIONAL)
        if options.get("proto3_optional"):
            options["oneof_index"] = len(found.oneof_decl)
            found.oneof_decl.add(name=f"_{field}")
        if "type_name" in options:
            options.setdefault("type", FieldDescriptorProto.TYPE_MESSAGE)
        found.field.add(name=field, number=number, **options)
    return found


def map_of(message: DescriptorProto, field: str, value: int) -> None:
    """Add a map field with text keys."""
    entry = message.nested_type.add(name=f"{field.title()}Entry")
    entry.options.map_entry = True
    for number, (name, kind) in enumerate((("key", 9), ("value", value)), 1):
        entry.field.add(name=name, number=number, type=kind, label=1)
    message.field.add(
        name=field, number=50 + len(message.field), label=3, type=11,
        type_name=f".p.{message.name}.{entry.name}",
    )  # fmt: skip


def proto_file(*messages: DescriptorProto, imports: tuple[str, ...] = ()) -> str:
    """Return a file as a registry sends it: without a name, in base64."""
    file = FileDescriptorProto(
        syntax="proto3", package="p", dependency=imports, message_type=messages
    )
    return base64.b64encode(file.SerializeToString()).decode()
