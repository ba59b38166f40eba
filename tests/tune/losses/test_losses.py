"""Every loss against the plain one in float64: value, gradients, chunks, temperatures, heads."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regrow.errors import InputError
from regrow.tune.losses import Head, forward_kl, hidden_cosine, nll, top_k_kl

N, D, V = 13, 6, 29
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.0625},
    "softcap": {"softcap": 3.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 2.5},
}
TEMPERATURES = (0.5, 1.0, 3.0)
CHUNKS = (None, 1, 5, N, 100)


def make_head(
    d=D, v=V, *, seed=0, bias=False, scale=1.0, softcap=None, dtype=torch.float64, trained=True
) -> Head:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(v, d, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(trained)
    row = torch.randn(v, dtype=torch.float64, generator=generator).to(dtype).requires_grad_(trained)
    return Head(weight, row if bias else None, scale, softcap)


def states(n=N, d=D, *, seed=1, dtype=torch.float64) -> torch.Tensor:
    drawn = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype).requires_grad_()


def plain_logits(hidden, head):
    """The formula, written out."""
    z = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    z = z * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def plain_kl(hidden, head, teacher_hidden, teacher_head, t):
    log_q = F.log_softmax(plain_logits(hidden, head) / t, -1)
    log_p = F.log_softmax(plain_logits(teacher_hidden, teacher_head) / t, -1)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True) * t**2


def plain_top_k(hidden, head, ids, logprobs, t):
    q = F.softmax(plain_logits(hidden, head) / t, -1)
    p, q = logprobs.exp(), q.gather(-1, ids)
    value = (p * (p / q).log()).sum()
    if ids.shape[-1] < head.vocabulary:
        r, rest = 1 - p.sum(-1), 1 - q.sum(-1)
        value = value + (r * (r / rest).log()).sum()
    return value * t**2


def top(hidden, head, k, t=1.0):
    logprobs, ids = F.log_softmax(plain_logits(hidden, head).detach() / t, -1).topk(k, -1)
    return ids, logprobs


def gradients(loss, hidden, head, *, by=1.0):
    wanted = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    return torch.autograd.grad(loss * by, wanted, retain_graph=True)


def assert_same(found, expected, hidden, head, **close):
    torch.testing.assert_close(found, expected, **close)
    for one, other in zip(
        gradients(found, hidden, head, by=0.3), gradients(expected, hidden, head, by=0.3), strict=True
    ):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kind", HEADS)
def test_nll_is_cross_entropy(kind, chunk):
    hidden, head = states(), make_head(**HEADS[kind])
    labels = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(2))
    expected = F.cross_entropy(plain_logits(hidden, head), labels, reduction="sum")
    assert_same(nll(hidden, head, labels, chunk=chunk), expected, hidden, head)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("kind", HEADS)
def test_forward_kl_is_kl_div_of_softmaxes(kind, chunk, t):
    hidden, head = states(), make_head(**HEADS[kind])
    teacher, teacher_head = states(d=9, seed=3), make_head(d=9, seed=4, bias=True, softcap=4.0)
    found = forward_kl(hidden, head, teacher, teacher_head, t, chunk=chunk)
    assert_same(found, plain_kl(hidden, head, teacher, teacher_head, t), hidden, head)
    found.backward()
    assert teacher.grad is None and teacher_head.weight.grad is None and teacher_head.bias.grad is None


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("k", [1, 4, V - 1, V])
@pytest.mark.parametrize("kind", HEADS)
def test_top_k_kl_is_the_divergence_of_partitions(kind, k, chunk, t):
    hidden, head = states(), make_head(**HEADS[kind])
    ids, logprobs = top(states(d=9, seed=3), make_head(d=9, seed=4), k, t)
    found = top_k_kl(hidden, head, ids, logprobs, t, chunk=chunk)
    assert_same(found, plain_top_k(hidden, head, ids, logprobs, t), hidden, head, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_top_k_kl_of_all_tokens_is_the_full_divergence(t):
    hidden, head, teacher, teacher_head = states(), make_head(), states(d=9, seed=3), make_head(d=9, seed=4)
    found = top_k_kl(hidden, head, *top(teacher, teacher_head, V, t), t)
    assert_same(found, forward_kl(hidden, head, teacher, teacher_head, t), hidden, head)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_top_k_kl_spreads_the_tail_in_proportion_to_the_student(t):
    hidden, head = states(), make_head()
    ids, logprobs = top(states(seed=3), make_head(seed=4), 5, t)
    with torch.no_grad():
        q = F.softmax(plain_logits(hidden, head) / t, -1).scatter(-1, ids, 0)
        r = 1 - logprobs.exp().sum(-1, keepdim=True)
        target = (q / q.sum(-1, keepdim=True) * r).scatter(-1, ids, logprobs.exp())
    log_q = F.log_softmax(plain_logits(hidden, head) / t, -1)
    full = F.kl_div(log_q, target, reduction="sum") * t**2
    assert_same(top_k_kl(hidden, head, ids, logprobs, t), full, hidden, head)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**31),
    k=st.integers(1, 11),
    spread=st.floats(0.1, 20.0),
    t=st.sampled_from(TEMPERATURES),
)
@torch.no_grad()
def test_top_k_kl_is_a_lower_bound_that_more_tokens_tighten(seed, k, spread, t):
    hidden, teacher = states(3, seed=seed), states(3, seed=seed + 1)
    head, teacher_head = make_head(v=12, seed=seed + 2), make_head(v=12, seed=seed + 3)
    hidden, teacher = hidden * spread, teacher * spread
    full = float(forward_kl(hidden, head, teacher, teacher_head, t))
    fewer, more = (float(top_k_kl(hidden, head, *top(teacher, teacher_head, j, t), t)) for j in (k, k + 1))
    assert -1e-9 <= fewer <= more + 1e-9 * (1 + full)
    assert more <= full + 1e-9 * (1 + full)


def test_the_renormalised_variant_is_no_lower_bound_and_moves_a_student_that_is_right():
    teacher, head = states(), make_head()
    ids, logprobs = top(teacher, head, 3)
    wrong = logprobs - logprobs.logsumexp(-1, keepdim=True)
    ours, renormalised = top_k_kl(teacher, head, ids, logprobs), top_k_kl(teacher, head, ids, wrong)
    assert abs(float(ours)) < 1e-12 < 0.1 < float(renormalised)  # the full divergence is 0
    assert max(g.abs().max() for g in gradients(ours, teacher, head)) < 1e-12
    assert min(g.abs().max() for g in gradients(renormalised, teacher, head)) > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("t", TEMPERATURES)
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(t, dtype):
    hidden, head = states(dtype=dtype), make_head(bias=True, dtype=dtype)
    full = forward_kl(hidden, head, hidden, head, t, chunk=4)
    assert full == 0 and not any(g.any() for g in gradients(full, hidden, head))
    logprobs, ids = F.log_softmax(head.logits(hidden).detach() / t, -1).topk(4)
    part = top_k_kl(hidden, head, ids, logprobs, t, chunk=4)
    room = 1e-11 if dtype == torch.float64 else 3e-5
    assert abs(float(part)) < room
    assert max(g.abs().max() for g in gradients(part, hidden, head)) < room


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_agree_with_finite_differences(kind):
    plain = make_head(v=7, **HEADS[kind])
    teacher, teacher_head = states(3, seed=3), make_head(v=7, seed=4)
    ids, logprobs = top(teacher, teacher_head, 3, 2.0)
    labels = torch.tensor([0, 6, 3])

    def losses(hidden, weight, bias=None):
        head = Head(weight, bias, plain.scale, plain.softcap)
        return (
            nll(hidden, head, labels, chunk=2),
            forward_kl(hidden, head, teacher, teacher_head, 2.0, chunk=2),
            top_k_kl(hidden, head, ids, logprobs, 2.0, chunk=2),
            hidden_cosine(hidden, teacher),
        )

    inputs = (states(3), plain.weight) + (() if plain.bias is None else (plain.bias,))
    assert torch.autograd.gradcheck(losses, inputs)


@pytest.mark.parametrize("loss", ["nll", "forward_kl", "top_k_kl"])
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_close_to_float64(dtype, close, loss):
    n, d, v = 64, 32, 200
    exact_hidden, exact_head = states(n, d), make_head(d, v, bias=True, softcap=30.0)
    teacher, teacher_head = states(n, d, seed=3), make_head(d, v, seed=4)
    hidden = exact_hidden.detach().to(dtype).requires_grad_()
    head = make_head(d, v, bias=True, softcap=30.0, dtype=dtype)
    ids, logprobs = top(teacher, teacher_head, 16)
    labels = ids[:, 3]

    def value(hidden, head, dtype):
        if loss == "nll":
            return nll(hidden, head, labels, chunk=7)
        if loss == "top_k_kl":
            return top_k_kl(hidden, head, ids, logprobs.float(), chunk=7)
        narrow = Head(teacher_head.weight.to(dtype))
        return forward_kl(hidden, head, teacher.to(dtype), narrow, chunk=7)

    found, exact = value(hidden, head, dtype), value(exact_hidden, exact_head, torch.float64)
    assert found.dtype == torch.float32 and exact.dtype == torch.float64
    assert float(found) == pytest.approx(float(exact), rel=close)
    pairs = zip(gradients(found, hidden, head), gradients(exact, exact_hidden, exact_head), strict=True)
    for one, other in pairs:
        assert one.dtype == dtype
        assert float((one.double() - other).norm() / other.norm()) < close


def test_a_head_in_bfloat16_loses_nothing_to_many_chunks():
    n, d, v = 512, 16, 50
    labels = torch.randint(0, v, (n,), generator=torch.Generator().manual_seed(5))
    hidden, head = states(n, d, dtype=torch.bfloat16), make_head(d, v, bias=True, dtype=torch.bfloat16)
    exact = make_head(d, v, bias=True)
    expected = gradients(nll(hidden.double(), exact, labels), hidden, exact)
    found = gradients(nll(hidden, head, labels, chunk=2), hidden, head)
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other.double()).norm() / other.double().norm()) < 1e-2


def test_positions_are_selected_with_shifted_labels_and_mask():
    batch, length = 3, 8
    generator = torch.Generator().manual_seed(6)
    hidden = torch.randn(batch, length, D, dtype=torch.float64, generator=generator).requires_grad_()
    labels = torch.randint(0, V, (batch, length), generator=generator)
    labels[:, :3] = -100
    labels[1, 5:] = -100
    head = make_head()
    following = labels[:, 1:]
    learn = following != -100
    logits = plain_logits(hidden, head)[:, :-1].reshape(-1, V)
    expected = F.cross_entropy(logits, following.reshape(-1), ignore_index=-100, reduction="sum")
    assert_same(nll(hidden[:, :-1][learn], head, following[learn], chunk=4), expected, hidden, head)


def test_no_positions_give_a_zero_that_is_connected():
    head = make_head(bias=True)
    hidden = states().detach().requires_grad_()
    none = hidden[:0]
    ids = torch.zeros(0, 3, dtype=torch.long)
    for loss in (
        nll(none, head, ids[:, 0]),
        forward_kl(none, head, none, head),
        top_k_kl(none, head, ids, ids.double()),
    ):
        assert loss == 0
        assert all(not g.any() for g in gradients(loss, hidden, head))
    (of_hidden,) = torch.autograd.grad(hidden_cosine(none, none), hidden)
    assert not of_hidden.any()


def test_evaluation_does_no_gradient_work():
    hidden, head = states(), make_head()
    labels = torch.zeros(N, dtype=torch.long)
    with torch.no_grad(), _Products() as products:
        loss = nll(hidden, head, labels, chunk=5)
    assert not loss.requires_grad and products.count == 3
    assert float(loss) == pytest.approx(float(nll(hidden, head, labels)))


def test_a_frozen_head_gets_no_gradient_work():
    hidden, head = states(), make_head(trained=False)
    with _Products() as products:
        nll(hidden, head, torch.zeros(N, dtype=torch.long), chunk=5).backward()
    assert products.count == 6 and head.weight.grad is None
    assert hidden.grad.any()


def test_a_tied_head_sums_the_gradients_of_both_its_uses():
    ids = torch.tensor([1, 4, 4, 0])
    head = make_head()
    hidden = torch.tanh(head.weight[ids])
    expected = torch.autograd.grad(
        F.cross_entropy(plain_logits(hidden, head), ids, reduction="sum"), head.weight, retain_graph=True
    )
    found = torch.autograd.grad(nll(hidden, head, ids, chunk=3), head.weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", ["nll", "forward_kl"])
def test_autocast_multiplies_in_its_own_type(loss):
    n, d, v = 32, 32, 100
    hidden, head = states(n, d, dtype=torch.float32), make_head(d, v, bias=True, dtype=torch.float32)
    teacher = make_head(d, v, seed=4, dtype=torch.float32)
    labels = torch.arange(n)

    def value():
        if loss == "nll":
            return nll(hidden, head, labels, chunk=9)
        return forward_kl(hidden, head, hidden, teacher, chunk=9)

    with torch.autocast("cpu", torch.bfloat16), _Products() as products:
        found = value()
    assert products.dtypes == {torch.bfloat16}
    for one, other in zip(gradients(found, hidden, head), gradients(value(), hidden, head), strict=True):
        assert one.dtype == torch.float32
        assert 0 < float((one - other).norm() / other.norm()) < 3e-2


@pytest.mark.parametrize("loss", ["nll", "forward_kl", "top_k_kl"])
def test_logits_never_exist_whole(loss):
    n, d, v, chunk = 96, 4, 3000, 8
    hidden, head = states(n, d, dtype=torch.float32), make_head(d, v, dtype=torch.float32, softcap=5.0)
    ids, logprobs = top(hidden, head, 8)
    values = {
        "nll": lambda: nll(hidden, head, ids[:, 0], chunk=chunk),
        "forward_kl": lambda: forward_kl(hidden, head, hidden, head, chunk=chunk),
        "top_k_kl": lambda: top_k_kl(hidden, head, ids, logprobs, chunk=chunk),
    }
    with _Largest() as seen:
        values[loss]().backward()
    assert seen.numel == chunk * v  # one chunk's logits; the head itself is smaller here


def test_the_default_chunk_bounds_memory_for_any_vocabulary():
    n, v = 600, 2**16 + 1
    hidden, head = states(n, 2, dtype=torch.float32), make_head(2, v, dtype=torch.float32, trained=False)
    with torch.no_grad(), _Largest() as seen:
        nll(hidden, head, torch.zeros(n, dtype=torch.long))
    assert seen.numel <= 2**25 < n * v


class TestTopKAtTheEdge:
    def test_rounding_of_stored_log_probabilities_is_harmless(self):
        hidden, head = states(dtype=torch.float32), make_head(dtype=torch.float32)
        ids, logprobs = top(hidden.double() * 6, make_head(), 8)
        full = float(top_k_kl(hidden, head, ids, logprobs))
        for dtype in (torch.float16, torch.bfloat16):
            assert float(top_k_kl(hidden, head, ids, logprobs.to(dtype))) == pytest.approx(full, rel=0.02)
        # Sums over one after rounding.
        assert math.isfinite(float(top_k_kl(hidden, head, ids, logprobs + 1e-3)))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_student_that_is_nearly_sure_keeps_a_finite_loss_of_the_right_size(self, dtype):
        # Its rest is exp(-200), which no difference from one can tell.
        weight = torch.tensor([[200.0], [0.0], [0.0]], dtype=dtype, requires_grad=True)
        hidden = torch.ones(1, 1, dtype=dtype, requires_grad=True)
        ids, logprobs = torch.tensor([[0]]), torch.tensor([[0.9]], dtype=dtype).log()
        loss = top_k_kl(hidden, Head(weight), ids, logprobs)
        rest = -200 + math.log(2)
        assert float(loss) == pytest.approx(0.9 * math.log(0.9) + 0.1 * (math.log(0.1) - rest), rel=1e-5)
        slopes = torch.autograd.grad(loss, weight)[0].flatten()
        torch.testing.assert_close(slopes, torch.tensor([0.1, -0.05, -0.05], dtype=dtype))

    def test_a_teacher_that_is_sure_gives_a_finite_loss(self):
        hidden, head = states(1), make_head()
        ids = torch.tensor([[2, 5]])
        logprobs = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)
        loss = top_k_kl(hidden, head, ids, logprobs)
        assert_same(loss, nll(hidden, head, torch.tensor([2])), hidden, head)


def test_hidden_cosine_counts_angles_only():
    ours, teacher = states(), states(seed=3)
    expected = sum(
        1 - float(a @ b / a.norm() / b.norm()) for a, b in zip(ours.detach(), teacher.detach(), strict=True)
    )
    loss = hidden_cosine(ours, teacher)
    loss.backward()
    assert float(loss) == pytest.approx(expected)
    assert teacher.grad is None and ours.grad.any()
    assert float(hidden_cosine(ours, 7 * ours)) == pytest.approx(0, abs=1e-9)
    assert float(hidden_cosine(ours, -ours)) == pytest.approx(2 * N)
    assert hidden_cosine(ours.bfloat16(), teacher.bfloat16()).dtype == torch.float32


def test_models_that_do_not_fit_are_refused():
    hidden = states()
    with pytest.raises(InputError, match=r"teacher: its vocabulary has 30 tokens, the student's 29"):
        forward_kl(hidden, make_head(), hidden, make_head(v=30))
    ids = torch.arange(30).expand(N, 30)
    with pytest.raises(InputError, match=r"teacher: 30 tokens at each position"):
        top_k_kl(hidden, make_head(), ids, ids.double())
    with pytest.raises(InputError, match=r"teacher: its hidden states have 9 channels, the student's 6"):
        hidden_cosine(hidden, states(d=9))


class _Products(TorchDispatchMode):
    """Counts matrix products and collects their types."""

    def __init__(self):
        super().__init__()
        self.count, self.dtypes = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "addmm", "addmm_", "matmul", "linear"):
            self.count += 1
            self.dtypes.add(args[-1].dtype)
        return func(*args, **(kwargs or {}))


class _Largest(TorchDispatchMode):
    """Keeps the size of the largest tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        sizes = (leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor))
        self.numel = max(self.numel, *sizes, 0)
        return made
