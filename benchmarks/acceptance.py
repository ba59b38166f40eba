"""What share of rewrites the rule accepts: with and without the reference in the prompt, in one try and in several.

    python -m benchmarks.acceptance MODEL --data FILE --adapter gsm8k [--limit 64] [--out FOLDER]

MODEL and FILE are sources as everywhere in regrow. A run that was killed goes on when it is started again.
"""

import argparse
from pathlib import Path

from regrow.commands import _open
from regrow.records import read_records
from regrow.selfdata import SelfData, SelfDataSpec, ShiftSpec, distill, shift
from regrow.source import DatasetSpec

_SAMPLED = {"attempts": 4, "temperature": 0.8, "top_p": 0.95}
SETTINGS = {
    "reference shown": {},
    "reference shown, up to 4 tries": _SAMPLED,
    "fresh answers": {"use_reference": False},
    "fresh answers, up to 4 tries": {"use_reference": False} | _SAMPLED,
}


def main() -> None:
    """Rewrite the same records in every setting and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="the unpruned model")
    parser.add_argument("--data", required=True, help="instruction set with final answers")
    parser.add_argument("--adapter", default="gsm8k", help="what its rows look like (default: gsm8k)")
    parser.add_argument("--limit", type=int, default=64, help="records (default: 64)")
    parser.add_argument("--max-new-tokens", type=int, default=320, help="longest answer (default: 320)")
    parser.add_argument("--out", type=Path, default=Path("runs/acceptance"), help="folder for the sets")
    given = parser.parse_args()
    base = _open(given.model)
    spec = DatasetSpec(name="data", source=given.data, adapter=given.adapter, limit=given.limit)
    records = read_records(spec)
    print(f"| {len(records)} records | " + " | ".join(_COLUMNS) + " |")
    print("| --- |" + " --- |" * len(_COLUMNS))
    for name, settings in SETTINGS.items():
        out = given.out / name.replace(",", "").replace(" ", "-")
        asked = SelfDataSpec(max_new_tokens=given.max_new_tokens, shard_size=32, **settings)
        data = distill(base, records, spec.family, asked, out)
        print(
            f"| {name} | " + " | ".join(_cells(data, shift.measure(base, data, name, _SHIFT))) + " |",
            flush=True,
        )


_SHIFT = ShiftSpec(encoder=None)
_COLUMNS = (
    "accepted at once", "in all tries", "answer differs", "unfinished", "rewrite likelier", "perplexity of rewrites",
    "of references",
)  # fmt: skip


def _cells(data: SelfData, moved: shift.Shift) -> list[str]:
    rates, decisions = data.summary["acceptance_by_attempt"], data.summary["decisions"]
    facts = moved.summary()
    return [
        f"{rates[0]:.0%}",
        f"{rates[-1]:.0%}",
        str(decisions.get("kept: answer differs", 0)),
        str(decisions.get("kept: unfinished", 0)),
        f"{facts.get('closer', 0):.0%}",
        f"{facts.get('rewrite_perplexity', 0):.2f}",
        f"{facts.get('reference_perplexity', 0):.2f}",
    ]


if __name__ == "__main__":
    main()
