"""What tests look for in a page."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "path", "use"}


class Page(HTMLParser):
    """Checks nesting and collects text, ids, links, attributes and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.stack, self.ids, self.links, self.words, self.tags = [], [], [], [], []
        self.rows: list[list[str]] = []
        self.feed(text)
        assert not self.stack, f"left open: {self.stack}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "xlink:href", "srcset", "data", "action", "poster"):
                self.links.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not self.stack or self.stack[-1] != "style":
            self.words.append(data)
        if self.rows and ("td" in self.stack or "th" in self.stack):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        """What is read, no-break spaces as spaces."""
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def row(self, first: str, after: str = "", head: str = "") -> list[str]:
        """Return the cells of the row that begins so.

        Args:
            first: its first cell.
            after: it stands below a row, such as a group's label, that begins so.
            head: it stands in a table with such a column.
        """
        seen, table = False, []
        for row in self.rows:
            cells = [cell.strip().replace("\u00a0", " ") for cell in row]
            if cells[0] in ("arm", "model"):
                seen, table = False, cells
            seen = seen or not after or cells[0].startswith(after)
            if seen and cells[0] == first and (not head or head in table):
                return cells
        raise AssertionError(f"no row {first} after {after} in a table with {head}")

    @property
    def faults(self) -> list[str]:
        """What is fetched or cannot be found: addresses beside SVG's namespaces, tags that load, links into nothing."""
        namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        loading = {"script", "link", "img", "iframe", "object", "embed", "video", "audio"}
        found = [link for link in self.links if not link.startswith(("#", "data:image/png;"))]
        found += sorted({link[1:] for link in self.links if link.startswith("#")} - set(self.ids))
        found += sorted({name for name in self.ids if self.ids.count(name) > 1})
        found += sorted(loading & set(self.tags))
        found += sorted(set(re.findall(r"https?://[^\s\"'<>)]+", self.source)) - namespaces)
        found += re.findall("@import", self.source)
        targets = re.findall(r"url\(['\"]?([^)]*)", self.source)
        return found + [target for target in targets if not target.startswith("#")]
