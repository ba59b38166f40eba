import numpy as np
import pytest
import torch

from regrow.errors import InputError
from regrow.merge.stream import decode, encode

EVERY_HALF = np.arange(2**16, dtype=np.uint16)


@pytest.mark.parametrize(("name", "kind"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_every_half_is_read_as_torch_reads_it_and_comes_back(name, kind):
    want = torch.from_numpy(EVERY_HALF.copy()).view(kind).float().numpy()
    got = decode(EVERY_HALF.tobytes(), name)
    np.testing.assert_array_equal(got, want)
    numbers = ~np.isnan(want)
    np.testing.assert_array_equal(encode(got, name).view(np.uint16)[numbers], EVERY_HALF[numbers])
    assert np.isnan(decode(encode(got, name).tobytes(), name)[~numbers]).all()


@pytest.mark.parametrize(("name", "kind"), [("BF16", torch.bfloat16), ("F16", torch.float16)])
def test_rounding_is_torchs(name, kind):
    bits = np.random.default_rng(0).integers(0, 2**32, 300_000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.isfinite(values)]
    if name == "F16":
        values = values[np.abs(values) < 65504]
    want = torch.from_numpy(values).to(kind).view(torch.uint16).numpy()
    np.testing.assert_array_equal(encode(values, name).view(np.uint16), want)


def test_what_float16_cannot_hold_is_refused():
    with pytest.raises(InputError, match=r"7e\+04 does not fit into float16"):
        encode(np.array([1, 70000], np.float32), "F16")


def test_float64_is_rounded_and_float32_kept():
    values = np.random.default_rng(0).standard_normal(100)
    np.testing.assert_array_equal(decode(values.tobytes(), "F64"), values.astype(np.float32))
    single = values.astype(np.float32)
    np.testing.assert_array_equal(decode(single.tobytes(), "F32"), single)
    assert encode(single, "F32").tobytes() == single.tobytes()
