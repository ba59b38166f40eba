"""Under which licences a model stands: those of its base and of everything that it was trained on.

Nobody but a lawyer can say what a mixture of licences allows. What can be said is which licences there are, of
which no licence is known, and which of them asks for most.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

UNKNOWN = "unknown"
# From what asks for nothing to what is not known at all.
_RANKS: dict[str, tuple[str, ...]] = {
    "public domain": ("CC0-1.0", "Unlicense", "PDDL-1.0", "0BSD"),
    "permissive": (
        "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "CC-BY-3.0", "CC-BY-4.0", "ODC-By-1.0",
        "CDLA-Permissive-1.0", "CDLA-Permissive-2.0",
    ),
    "share alike": (
        "CC-BY-SA-3.0", "CC-BY-SA-4.0", "ODbL-1.0", "MPL-2.0", "LGPL-2.1-only", "LGPL-3.0-only", "GPL-2.0-only",
        "GPL-3.0-only", "AGPL-3.0-only", "CDLA-Sharing-1.0", "GFDL-1.3-only",
    ),
    "conditions of use": (
        "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "qwen", "OpenRAIL", "OpenRAIL++",
        "CreativeML-OpenRAIL-M", "BigScience-OpenRAIL-M", "BigCode-OpenRAIL-M",
    ),
    "not for commerce": (
        "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "qwen-research", "mrl",
    ),
    "no derivatives": ("CC-BY-ND-4.0", "CC-BY-NC-ND-4.0"),
}  # fmt: skip
_TERMS = (*_RANKS, "terms not known to regrow", UNKNOWN)
_KNOWN = {name.lower(): (name, rank) for rank, names in _RANKS.items() for name in names}
_ALIASES = {
    "apache": "Apache-2.0", "apache2": "Apache-2.0", "apache 2.0": "Apache-2.0", "bsd": "BSD-3-Clause",
    "gpl-2.0": "GPL-2.0-only", "gpl-3.0": "GPL-3.0-only", "gpl": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only",
    "lgpl-2.1": "LGPL-2.1-only", "lgpl-3.0": "LGPL-3.0-only", "odc-by": "ODC-By-1.0", "cc0": "CC0-1.0",
    "odbl": "ODbL-1.0", "pddl": "PDDL-1.0", "gfdl": "GFDL-1.3-only",
}  # fmt: skip
# What the beginning of a licence's text says.
_TEXTS = (
    (r"apache license\s+version 2\.0", "Apache-2.0"),
    (r"\bmit license\b", "MIT"),
    (r"gnu affero general public license", "AGPL-3.0-only"),
    (r"gnu lesser general public license", "LGPL-3.0-only"),
    (r"gnu general public license\s+version 3", "GPL-3.0-only"),
    (r"gnu general public license\s+version 2", "GPL-2.0-only"),
    (r"llama (2|3(?:\.\d)?|4) community license", r"llama\1"),
    (r"gemma terms of use", "gemma"),
    (r"qwen research license", "qwen-research"),
    (r"qwen license", "qwen"),
)


# Stages whose sources a model is trained on; calibration and evaluation texts leave nothing in its weights.
_TRAINING = ("distill", "validate", "tune")


class LicenceLink(BaseModel):
    """One thing that went into a model, and its licence."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["base", "data"] = Field(description="the base model, or data it was trained on")
    name: str = Field(description="name of the model or dataset")
    licence: str | None = Field(description="SPDX identifier or the hub's name; null: not known")

    @property
    def terms(self) -> str:
        """What the licence asks for, in a word or two."""
        return terms_of(self.licence)


class LicenceChain(BaseModel):
    """The licences of a model."""

    model_config = ConfigDict(frozen=True)

    links: tuple[LicenceLink, ...] = Field(description="base first, then data")

    @classmethod
    def of(
        cls, base: str | None, data: Mapping[str, str | None], *, base_name: str = "base"
    ) -> "LicenceChain":
        """Put a chain together.

        Args:
            base: licence of the base model.
            data: licence of each dataset, by its name; None where it is not known.
            base_name: name of the base model.
        """
        links = [LicenceLink(kind="base", name=base_name, licence=normal(base))]
        links += [LicenceLink(kind="data", name=name, licence=normal(one)) for name, one in data.items()]
        return cls(links=tuple(links))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of what has no known licence."""
        return tuple(link.name for link in self.links if link.licence is None)

    @property
    def strictest_known(self) -> str | None:
        """The licence that asks for most among those that are known; several of equal weight joined by AND."""
        known = [link for link in self.links if link.licence]
        if not known:
            return None
        most = max(_TERMS.index(link.terms) for link in known)
        names = sorted({str(link.licence) for link in known if _TERMS.index(link.terms) == most})
        return " AND ".join(names)

    @property
    def strictest(self) -> str:
        """The licence that asks for most; `unknown` as long as one link's is, which might ask for more."""
        return UNKNOWN if self.unknown or not self.links else str(self.strictest_known)

    def sentence(self) -> str:
        """Say it for people."""
        if not self.links:
            return "Licence: unknown."
        known = self.strictest_known
        said = f"Most restrictive licence{' that is known' if self.unknown else ''}: {known}" if known else ""
        if known and " AND " not in known:
            said += f" ({terms_of(known)})"
        lost = f"Licence unknown of: {', '.join(self.unknown)}" if self.unknown else ""
        return ". ".join(filter(None, (said, lost))) + "."

    def to_tag(self) -> str:
        """The links as JSON, for a tag."""
        return json.dumps([link.model_dump() for link in self.links], ensure_ascii=False)

    @classmethod
    def from_tag(cls, text: str | None) -> "LicenceChain":
        """Read what `to_tag` wrote; an empty chain where there is nothing readable."""
        try:
            return cls(links=tuple(LicenceLink.model_validate(one) for one in json.loads(text or "[]")))
        except (ValueError, TypeError):
            return cls(links=())


def normal(name: str | None) -> str | None:
    """Return a licence's name in its usual spelling; None for what says that it is not known."""
    text = (name or "").strip()
    if text.lower() in ("", UNKNOWN, "other", "none", "noassertion"):
        return None
    text = _ALIASES.get(text.lower(), text)
    return _KNOWN[text.lower()][0] if text.lower() in _KNOWN else text


def terms_of(name: str | None) -> str:
    """What a licence asks for, in a word or two."""
    if name is None:
        return UNKNOWN
    return _KNOWN[name.lower()][1] if name.lower() in _KNOWN else "terms not known to regrow"


def licence_of(folder: Path) -> str | None:
    """Return the licence that a model folder states: in its model card, else by the text of its LICENSE file."""
    card = folder / "README.md"
    if card.is_file():
        head = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        said = re.search(r"^license:\s*[\"']?([^\s\"'#]+)", head[1], re.MULTILINE) if head else None
        if said and (name := normal(said[1])):
            return name
    for file in sorted([*folder.glob("LICEN[SC]E*"), *folder.glob("COPYING*")]):
        text = " ".join(file.read_text(encoding="utf-8", errors="replace")[:1500].lower().split())
        for pattern, name in _TEXTS:
            if found := re.search(pattern, text):
                return normal(found.expand(name))
    return None


def licences_of(folder: Path) -> LicenceChain:
    """Return the chain that a model folder itself tells.

    Its statements (`regrow.lineage`) name the sources of the base model and of every dataset, with their licences.
    A folder without statements has its own licence alone, since licence files are handed on from the base.
    """
    from regrow.lineage import chain

    base = LicenceLink(kind="base", name="base", licence=licence_of(folder))
    data: dict[str, LicenceLink] = {}
    for statement in chain(folder):
        for source in [one for one in statement.materials if one.name == "source"]:
            notes = source.annotations or {}
            licence = normal(str(notes["licence"])) if notes.get("licence") else None
            if statement.stage in _TRAINING and (name := notes.get("set")):
                data[str(name)] = LicenceLink(kind="data", name=str(name), licence=licence)
            elif statement.stage == "load_model":
                base = LicenceLink(
                    kind="base", name=str(source.uri or "base"), licence=licence or base.licence
                )
    return LicenceChain(links=(base, *(data[name] for name in sorted(data))))
