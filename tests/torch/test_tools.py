"""PyTorch's tools around the drop-in modules: copies, parametrisations, the compiler, distributed training."""

from __future__ import annotations

import copy
import datetime
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from processes import LIMIT
from torch.nn.utils import parametrizations, parametrize, prune
from torch_modules import KINDS, Counting, both, close, flat, gradients, leaves_of

import cylstm
import cylstm.torch

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    # PyTorch compiles, pickles and traces with functions of its own and of Python that it deprecates
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_files(kind, tmp_path):
    module = KINDS[kind][1](2, 3, backend="numpy").eval()
    x = torch.randn(4, 2)
    expected = list(leaves_of(module(x)))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    loaded = KINDS[kind][0](2, 3)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert all(map(close, leaves_of(loaded(x)), expected))
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).double().float()):
        assert (type(copied), copied.backend, copied.training) == (type(module), "numpy", False)
        assert all(map(torch.equal, leaves_of(copied(x)), expected))
        with torch.no_grad():
            next(copied.parameters()).add_(1)
        assert not torch.equal(next(leaves_of(copied(x))), expected[0])
    assert all(map(torch.equal, leaves_of(module(x)), expected))


@pytest.mark.parametrize("wrap", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrizations(wrap):
    theirs, ours = both(3, 4, 2)
    x = torch.randn(5, 2, 3)
    for module in (theirs, ours):
        torch.manual_seed(0)
        wrap(module, "weight_hh_l1")
        module.eval()  # spectral_norm iterates at each look at the weight in training mode, and PyTorch looks twice
    assert close(ours(x)[0], theirs(x)[0])
    for actual, expected in zip(*(gradients(m, lambda m: flat(m(x))) for m in (ours, theirs)), strict=True):
        assert close(actual, expected)
    assert torch.equal(copy.deepcopy(ours)(x)[0], ours(x)[0])
    with parametrize.cached():
        assert close(ours(x)[0], theirs(x)[0])
    parametrize.remove_parametrizations(ours, "weight_hh_l1")
    assert close(ours(x)[0], theirs(x)[0])


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weight_norm_by_hooks():
    theirs, ours = (torch.nn.utils.weight_norm(module, "weight_hh_l0") for module in both(3, 4))
    x = torch.randn(5, 2, 3)
    for _ in range(2):
        for module in (theirs, ours):
            module(x)[0].square().sum().backward()
            with torch.no_grad():
                module.weight_hh_l0_g.sub_(0.1)
        assert close(ours.weight_hh_l0_v.grad, theirs.weight_hh_l0_v.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_spectral_norm_and_prune_by_hooks(kind):
    theirs, ours = both(3, 4, kind=kind)
    name = next(name for name, _ in theirs.named_parameters() if name.startswith("weight_hh"))
    for module in (theirs, ours):
        torch.manual_seed(0)
        torch.nn.utils.spectral_norm(module, name)
        prune.l1_unstructured(module, name.replace("hh", "ih"), 0.5)
    x = torch.randn(5, 3)
    for _ in range(2):
        grads = [gradients(m, lambda m: list(leaves_of(m(x)))) for m in (ours, theirs)]
        assert all(map(close, *grads))
        for module in (theirs, ours):
            torch.optim.SGD(module.parameters(), lr=0.1).step()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints(reentrant):
    theirs, ours = both(3, 4, 2)
    x = torch.randn(5, 2, 3, requires_grad=True)
    checkpoint = torch.utils.checkpoint.checkpoint
    results = [checkpoint(lambda x, m=m: m(x)[0], x, use_reentrant=reentrant).sin().sum() for m in (ours, theirs)]
    assert close(*(backward_of(result, x) for result in results))


def backward_of(result: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    x.grad = None
    result.backward()
    return x.grad


def test_hooks_of_modules():
    theirs, ours = both(3, 4)
    grads = []
    for module in (ours, theirs):
        x = torch.linspace(-1, 1, 30).reshape(5, 2, 3).requires_grad_()
        module.register_forward_pre_hook(lambda module, args: (2 * args[0],))
        module.register_forward_hook(lambda module, args, results: (3 * results[0], results[1]))
        module.register_full_backward_pre_hook(lambda module, grads: tuple(g if g is None else 2 * g for g in grads))
        module.register_full_backward_hook(lambda module, of_input, of_output: (of_input[0] + 1,))
        grads.append(backward_of(module(x)[0].sin().sum(), x))
    assert close(*grads)


def test_data_parallel():
    theirs, ours = both(3, 4)
    x = torch.randn(5, 2, 3)
    assert close(torch.nn.DataParallel(ours)(x)[0], theirs(x)[0])


def test_functional_call():
    theirs, ours = both(3, 4, bidirectional=True)
    x = torch.randn(5, 2, 3)
    before = ours(x)[0]
    doubled = {name: (2 * value.detach()).requires_grad_() for name, value in theirs.named_parameters()}
    results = [torch.func.functional_call(module, doubled, (x,))[0] for module in (ours, theirs)]
    assert close(*results)
    grads = [torch.autograd.grad(result.sum(), list(doubled.values())) for result in results]
    assert all(map(close, *grads))
    assert torch.equal(ours(x)[0], before)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("allow_rnn", [False, True])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compile(compiler, allow_rnn):
    """By default the compiler leaves recurrent modules to eager execution. Allowed to, it traces the whole."""
    torch._dynamo.reset()
    theirs, ours = both(3, 4, 2, bidirectional=True, batch_first=True)

    def gradient(module: torch.nn.Module, compiled: bool) -> list[torch.Tensor]:
        def loss(x: torch.Tensor) -> torch.Tensor:
            output, (h_n, _) = module(x * 2)
            return (output * 3).sin().sum() + h_n.exp().sum()

        x = torch.linspace(-1, 1, 30).reshape(2, 5, 3).requires_grad_()
        run = torch.compile(loss, backend=compiler, fullgraph=allow_rnn) if compiled else loss
        return list(torch.autograd.grad(run(x), [x, *module.parameters()]))

    with torch._dynamo.config.patch(allow_rnn=allow_rnn):
        for actual, expected in zip(gradient(ours, True), gradient(theirs, False), strict=True):
            assert close(actual, expected)


def test_compile_a_loop_over_a_cell():
    torch._dynamo.reset()
    theirs, ours = both(3, 4, kind="LSTMCell")
    x = torch.randn(3, 2, 3)

    def loop(cell: torch.nn.Module) -> torch.Tensor:
        state = None
        for x_t in x:
            state = cell(x_t, state)
        return state[0].sum()

    compiled = torch.compile(loop, backend="aot_eager", fullgraph=True)
    assert close(compiled(ours), loop(theirs))
    assert all(map(close, torch.autograd.grad(compiled(ours), list(ours.parameters())), gradients_of_sum(loop, theirs)))


@pytest.mark.parametrize("copied", [False, True])
def test_compile_takes_a_backend_that_is_an_object(copied):
    torch._dynamo.reset()
    cell = torch.nn.LSTMCell(2, 3)
    model = torch.compile(torch.nn.Sequential(cell), backend="aot_eager")
    x = torch.randn(4, 2)
    expected = model(x)
    counting = Counting()
    cylstm.torch.replace(model, backend=counting)  # of a model that was compiled before
    if copied:
        model = torch.compile(copy.deepcopy(model._orig_mod), backend="aot_eager")
        counting = model._orig_mod[0].backend
    assert all(map(close, model(x), expected))
    assert counting.prepared == 1
    cylstm.torch.restore(model)
    assert all(map(close, model(x + 0), expected))
    assert counting.prepared == 1


def gradients_of_sum(
    run: Callable[[torch.nn.Module], torch.Tensor], module: torch.nn.Module
) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(run(module), list(module.parameters()))


def test_autocast_leaves_it_in_the_dtype_of_its_parameters():
    module = cylstm.torch.LSTM(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = torch.nn.Linear(3, 3)(x)
        assert low.dtype == torch.bfloat16
        output, _ = module(low)
        assert output.dtype == torch.float32
    assert torch.equal(output, module(low.float())[0])


def test_meta_device_gives_shapes():
    module = cylstm.torch.LSTM(3, 4, proj_size=2, device="meta")
    output, (h_n, c_n) = module(torch.empty(5, 2, 3, device="meta"))
    assert (output.shape, h_n.shape, c_n.shape) == ((5, 2, 2), (1, 2, 2), (1, 2, 4))


def train_one_of_two(rank: int, folder: str) -> None:
    """One process of two: the gradients of its half of the batch, averaged by DDP."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    module = torch.nn.parallel.DistributedDataParallel(ddp_module(seed=rank))  # rank 0 sends its weights to the other
    loss = module(ddp_data()[:, 3 * rank : 3 * rank + 3])[0].square().mean()
    loss.backward()
    torch.save([parameter.grad for parameter in module.parameters()], f"{folder}/{rank}.pt")
    del module, loss  # a DDP module that outlives the process group hangs now and then when it ends
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def ddp_module(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return cylstm.torch.LSTM(3, 4, 2, bidirectional=True)


def ddp_data() -> torch.Tensor:
    return torch.linspace(-1, 1, 90).reshape(5, 6, 3).sin()


@pytest.mark.skipif(sys.platform == "win32", reason="the two processes meet on a loopback interface named lo")
def test_distributed_data_parallel(tmp_path):
    command = "import sys, test_tools as t; t.train_one_of_two(int(sys.argv[1]), sys.argv[2])"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    workers = [
        subprocess.Popen([sys.executable, "-c", command, str(rank), str(tmp_path)], env=env, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=LIMIT)[1].decode() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], errors
    whole = ddp_module(seed=0)
    whole(ddp_data())[0].square().mean().backward()
    for rank in range(2):
        grads = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for grad, parameter in zip(grads, whole.parameters(), strict=True):
            assert close(grad, parameter.grad)
