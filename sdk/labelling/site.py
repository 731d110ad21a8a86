"""What the labelling page's server answers: the page, the images, and what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tornado import web

from edgeloc._support.json import parse_json
from edgeloc.errors import EdgelocError, UsageError
from edgeloc.labelling.session import LabelSession
from edgeloc.sinks.web.server import Handler, PageHandler, Routes

__all__ = ["ROUTES"]


class _Page(PageHandler):
    file = Path(__file__).with_name("page.html")


class _SessionHandler(Handler):
    content: LabelSession

    def answer(self, ask: Callable[..., Any], *given: Any) -> Any:
        """What a method of the content returns; None where it raises or finds nothing, which is then the response."""
        try:
            found = ask(*given)
        except EdgelocError as error:
            self.write_json({"why": str(error)}, 400 if isinstance(error, UsageError) else 500)
            return None
        if found is None:
            self.write_json({"why": "there is no image of that name; load the page again"}, 404)
        return found


class _State(_SessionHandler):
    def get(self) -> None:
        self.write_json(self.content.state())


class _Image(_SessionHandler):
    def get(self) -> None:
        found = self.answer(self.content.image, self.get_query_argument("name", strip=False))
        if found is not None:
            self.write_json(found)


class _Picture(_SessionHandler):
    def get(self) -> None:
        picture = self.answer(self.content.picture, self.get_query_argument("name", strip=False))
        if picture is not None:
            self.set_header("Content-Type", "image/jpeg")
            self.finish(picture)


class _Save(_SessionHandler):
    """Takes what a page elsewhere cannot send: JSON, which a browser asks about before, from the page's own address."""

    SUPPORTED_METHODS = ("POST",)

    def prepare(self) -> None:
        super().prepare()
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        origin = self.request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != self.request.host.lower():
            raise web.HTTPError(403)
        if kind != "application/json":
            raise web.HTTPError(415)

    def post(self) -> None:
        try:
            given = parse_json(self.request.body)
            name, objects = given["name"], given["objects"]
        except (ValueError, KeyError, TypeError):
            raise web.HTTPError(400) from None
        counts = self.answer(self.content.save, str(name), objects)
        if counts is not None:
            self.write_json({"saved": counts[0], "images": counts[1]})


ROUTES: Routes = (
    ("/", _Page),
    ("/state", _State),
    ("/image", _Image),
    ("/picture.jpg", _Picture),
    ("/save", _Save),
)
