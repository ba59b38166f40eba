"""What the stages that read and write weights without computing with them need: load, prune, merge, register."""

from regrow.capacity.forward import Data
from regrow.capacity.model import LIBRARIES
from regrow.capacity.need import Need
from regrow.capacity.paper import Paper, largest_tensor
from regrow.merge import MergeSpec
from regrow.prune import PruneSpec
from regrow.source import ModelSpec

# Chunks of files that are read, hashed and written; measured: 16 MiB (prune), 66 MiB (merge), see docs/scale.md.
_CHUNKS = 64 * 2**20
# Great Expectations with pandas, MLflow, ZenML's client: an allowance.
_TABLES = 1200 * 2**20
# Times that each merging method reads its models: an arc needs its angle first, TIES its limits.
_LOOKS = {"slerp": 2, "nuslerp": 2, "ties": 2, "dare_ties": 2}


def load_model(base: Paper, spec: ModelSpec) -> Need:
    """The source becomes a checkpoint folder; the hub's cache and the folder share the files."""
    stored = base.nbytes
    converted = spec.source.partition("#")[2].endswith(".gguf") or spec.source.endswith(".gguf")
    host = {"libraries": LIBRARIES, "buffers": _CHUNKS}
    if converted:
        # transformers dequantizes the whole model in memory, a tensor in float32 at a time.
        host["weights"] = stored + 4 * largest_tensor(base)
    outside = 0 if spec.parsed.kind == "local" else stored
    return Need(
        host=host,
        outside=outside // (3 if converted else 1),  # four or five bits of sixteen, and scales
        stored=stored,
        scratch=stored + (stored // 3 if converted else 0),
        disk=2 * stored,
    )


def prune(base: Paper, pruned: Paper, spec: PruneSpec) -> Need:
    """Bytes are copied; only what loses width goes through memory, a tensor at a time."""
    host = {"libraries": LIBRARIES, "buffers": _CHUNKS}
    if spec.needs_width:
        host["tensor"] = 3 * largest_tensor(base) * (base.nbytes // base.parameters)
    return Need(
        host=host,
        fetched={"base": base.nbytes},
        stored=pruned.nbytes,
        scratch=pruned.nbytes,
        disk=base.nbytes + 2 * pruned.nbytes,  # the digest on arrival, a copy read and written
    )


def validate(base: Paper, data: Data) -> Need:
    """The gate reads the set and, of the model, only its tokenizer; it gets the whole artifact all the same."""
    return Need(
        host={"libraries": LIBRARIES, "tables": _TABLES, "data": 6 * data.nbytes},
        fetched={"base": base.nbytes, "data": data.nbytes},
        stored=data.nbytes,
        scratch=data.nbytes,
        disk=base.nbytes,
    )


def merge(tuned: dict[str, Paper], pruned: Paper, spec: MergeSpec) -> Need:
    """Pieces of all models side by side; the pruned parent comes along as an input."""
    models = list(tuned.values())
    looks = _LOOKS.get(spec.method, 1)
    read = sum(one.nbytes for one in models) * looks
    return Need(
        host={"pieces": _CHUNKS + 4 * 2**20 * (len(models) + 1), "libraries": LIBRARIES},
        fetched={name: one.nbytes for name, one in tuned.items()} | {"pruned": pruned.nbytes},
        stored=models[0].nbytes,
        scratch=models[0].nbytes,
        disk=sum(one.nbytes for one in models) + read + models[0].nbytes,
        merged=models[0].parameters * looks * len(models) / 4,  # the rate is that of SLERP between two
    )


def lay_out(fetched: dict[str, int]) -> Need:
    """Models and data go where every pod finds them: links, on the one volume that tuning in several pods demands."""
    return Need(
        host={"libraries": LIBRARIES, "buffers": _CHUNKS},
        fetched=fetched,
        disk=2 * sum(fetched.values()),  # the digest on arrival, and again in the pods' folder
    )


def collect(tuned: Paper) -> Need:
    """What the pods have left is read and digested on their volume, and goes into the artifact store."""
    return Need(
        host={"libraries": LIBRARIES, "buffers": _CHUNKS},
        stored=tuned.nbytes,
        scratch=tuned.nbytes,
        disk=2 * tuned.nbytes,
    )


def register(models: dict[str, Paper]) -> Need:
    """The version points at the stored model: nothing is uploaded, but every model of the run is an input."""
    return Need(
        host={"libraries": LIBRARIES, "tables": _TABLES},
        fetched={name: one.nbytes for name, one in models.items()},
        stored=10 * 2**20,
        scratch=50 * 2**20,
        disk=sum(one.nbytes for one in models.values()),
    )


def small(fetched: dict[str, int], stored: int = 0) -> Need:
    """A step that moves data and figures alone."""
    return Need(
        host={"libraries": LIBRARIES, "tables": _TABLES}, fetched=fetched, stored=stored, scratch=stored
    )
