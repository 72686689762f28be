"""A small chat-completions server: what stands at the other end of `--model http://...`."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as the server saw it."""

    text: str
    """All text parts."""
    images: list[tuple[int, int]]
    """(width, height) of every JPEG."""
    videos: list[bytes]
    body: dict[str, Any]
    key: str | None


@dataclass
class ChatServer:
    """Answers with a function, or with the statuses that are waiting."""

    reply: Callable[[Asked], str | tuple[int, str]]
    """Text, or (status, message)."""
    asked: list[Asked] = field(default_factory=list)
    url: str = ""


@contextmanager
def chat_server(reply: Callable[[Asked], str | tuple[int, str]]) -> Iterator[ChatServer]:
    """Serve on a free port until the block ends."""
    state = ChatServer(reply=reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = read_request(body, self.headers.get("Authorization"))
            state.asked.append(asked)
            answer = state.reply(asked)
            status, text = answer if isinstance(answer, tuple) else (200, answer)
            self._send(status, completion(text) if status == 200 else {"error": {"message": text}})

        def _send(self, status: int, value: Any) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def read_request(body: dict[str, Any], key: str | None) -> Asked:
    """Decode what was sent."""
    from PIL import Image

    parts = [part for message in body["messages"] for part in message["content"]]
    images, videos = [], []
    for part in parts:
        if part["type"] == "text":
            continue
        head, _, data = part[part["type"]]["url"].partition(",")
        content = base64.b64decode(data, validate=True)
        if part["type"] == "video_url":
            assert head == "data:video/mp4;base64"
            videos.append(content)
        else:
            assert head == "data:image/jpeg;base64"
            image = Image.open(io.BytesIO(content))
            assert image.format == "JPEG"
            images.append(image.size)
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    return Asked(text=text, images=images, videos=videos, body=body, key=key)


def completion(text: str) -> dict[str, Any]:
    """Return the body of an answer."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": len(text.split()),
            "total_tokens": 1 + len(text.split()),
        },
    }
