"""What share of rewrites the rule accepts, with and without the reference in the prompt, and what more tries add.

    python -m benchmarks.acceptance MODEL --data FILE --adapter gsm8k [--limit 64] [--out FOLDER]

The first of four tries is greedy, the others are sampled at temperature 0.8 and top-p 0.95. MODEL and FILE are sources
as everywhere in regrow. A run that was killed goes on when it is started again.
"""

import argparse
from pathlib import Path

from regrow.commands.shared import open_model
from regrow.records import read_records
from regrow.selfdata import SelfData, SelfDataSpec, ShiftSpec, distill, shift
from regrow.source import DatasetSpec

SETTINGS = {"reference shown": True, "fresh answers": False}
_COLUMNS = (
    "accepted at the first try", "within 2", "within 3", "within 4", "rewrite likelier", "perplexity of rewrites",
    "of references",
)  # fmt: skip


def main() -> None:
    """Rewrite the same records in both settings and print a Markdown table."""
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
    base = open_model(given.model)
    spec = DatasetSpec(name="data", source=given.data, adapter=given.adapter, limit=given.limit)
    records = read_records(spec)
    print(f"| {len(records)} records | " + " | ".join(_COLUMNS) + " |")
    print("| --- |" + " --- |" * len(_COLUMNS))
    for name, use_reference in SETTINGS.items():
        asked = SelfDataSpec(
            use_reference=use_reference,
            max_new_tokens=given.max_new_tokens,
            attempts=4,
            temperature=0.8,
            top_p=0.95,
            shard_size=32,
        )
        data = distill(base, records, spec.family, asked, given.out / name.replace(" ", "-"))
        moved = shift.measure(base, data, name, ShiftSpec(encoder=None))
        print(f"| {name} | " + " | ".join(_cells(data, moved)) + " |", flush=True)


def _cells(data: SelfData, moved: shift.Shift) -> list[str]:
    facts = moved.summary()
    return [
        *(f"{rate:.0%}" for rate in data.summary["acceptance_by_attempt"]),
        f"{facts.get('closer', 0):.0%}",
        f"{facts.get('rewrite_perplexity', 0):.2f}",
        f"{facts.get('reference_perplexity', 0):.2f}",
    ]


if __name__ == "__main__":
    main()
