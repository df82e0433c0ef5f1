"""The running average of the fuser's weights: the recursion by hand, the same bits after any stop."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from small_training import Stopped, read_log
from tectum.models.tdfusion import TDFusionLoss
from tectum.pair import Pair
from tectum.training.ema import EMA
from tectum.training.loop import fit
from tectum.training.schedule import Schedule
from test_trainer import SHORT, Small, result, stop_at, timeless

Images = Callable[..., tuple[Tensor, ...]]
AVERAGED = replace(SHORT, ema=0.7, dihedral=True)


@pytest.fixture
def run(images: Images, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    pairs = [Pair(*images(14 + i, 20 - i, seed=i), name=(f"pair-{i}",)) for i in range(5)]

    def train(folder: str, *, fuser: nn.Module | None = None, schedule: Schedule = AVERAGED, **more: Any) -> Any:
        fuser = fuser or Small()
        return fit(fuser, TDFusionLoss(), pairs[:3], pairs[3:], run=tmp_path / folder, schedule=schedule, **more)

    return train


def parameters(fuser: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in fuser.named_parameters()}


def test_the_average_is_the_recursion_by_hand(run: Callable[..., Any], tmp_path: Path) -> None:
    """Kept is the average at the best epoch; the network itself trains on as without."""
    fuser = Small()
    means, raw = {0: {k: x.double() for k, x in parameters(fuser).items()}}, {}

    def watch(line: dict[str, Any]) -> None:
        if "valid_loss" not in line:
            step, raw[line["step"]] = line["step"], parameters(fuser)
            means[step] = {k: 0.7 * x + 0.3 * raw[step][k].double() for k, x in means[step - 1].items()}

    best = run("averaged", fuser=fuser, report=watch)
    kept = load_file(tmp_path / "averaged" / "best.safetensors")
    last = torch.load(tmp_path / "averaged" / "last.pt", weights_only=True)
    for name, x in means[best["step"]].items():
        torch.testing.assert_close(kept[name].double(), x, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(kept[name], raw[best["step"]][name], atol=1e-5), name
        assert torch.equal(dict(fuser.named_parameters())[name], kept[name])
        torch.testing.assert_close(last["average"][name].double(), means[9][name], rtol=1e-5, atol=1e-7)
    run("plain", schedule=replace(AVERAGED, ema=0.0))
    plain = result(tmp_path / "plain")
    assert plain["last"] == result(tmp_path / "averaged")["last"]
    assert plain["adam"] == result(tmp_path / "averaged")["adam"]
    scores = [[line["valid_loss"] for line in read_log(tmp_path / name)] for name in ("averaged", "plain")]
    assert all(one != other for one, other in zip(*scores, strict=True)), "it is the average that is validated"


@pytest.mark.parametrize("stops", [[1], [3], [5, 5, 8]])
def test_resumed_equals_uninterrupted(run: Callable[..., Any], tmp_path: Path, stops: list[int]) -> None:
    line = run("straight")
    for step in stops:
        with pytest.raises(Stopped):
            run("stopped", report=stop_at(step))
    assert timeless(run("stopped", fuser=Small(99 if (tmp_path / "stopped" / "last.pt").exists() else 0))) == timeless(
        line
    )
    assert result(tmp_path / "stopped") == result(tmp_path / "straight")
    averages = [
        torch.load(tmp_path / name / "last.pt", weights_only=True)["average"] for name in ("stopped", "straight")
    ]
    assert averages[0].keys() == averages[1].keys() == parameters(Small()).keys()
    assert all(torch.equal(averages[0][name], x) for name, x in averages[1].items())


def test_a_run_of_before_goes_on(run: Callable[..., Any], tmp_path: Path) -> None:
    """Its checkpoint has no average, and its settings do not know the new ones."""
    with pytest.raises(Stopped):
        run("before", schedule=SHORT, report=stop_at(5))
    path = tmp_path / "before" / "last.pt"
    saved = torch.load(path, weights_only=True)
    del saved["average"], saved["state"]["schedule"]["ema"], saved["state"]["schedule"]["dihedral"]
    torch.save(saved, path)
    with pytest.raises(ValueError, match="a run with another ema;"):
        run("before", schedule=replace(SHORT, ema=0.5))
    run("before", schedule=SHORT)
    run("straight", schedule=SHORT)
    assert result(tmp_path / "before") == result(tmp_path / "straight")


def test_the_module_is_untouched_outside() -> None:
    module = Small()
    average = EMA(module, 0.5)
    average.start()
    before = parameters(module)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1)
    moved = parameters(module)
    average.start()  # not again
    average.update()
    with pytest.raises(KeyError), average.applied():
        for name, x in parameters(module).items():
            torch.testing.assert_close(x, (before[name] + moved[name]) / 2)
        raise KeyError
    assert all(torch.equal(x, moved[name]) for name, x in parameters(module).items())


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_decays_that_cannot_be(value: float) -> None:
    with pytest.raises(ValueError, match="ema must be 0"):
        Schedule(ema=value)
    assert asdict(Schedule())["ema"] == 0.0 and Schedule(ema=0.999).ema == 0.999
