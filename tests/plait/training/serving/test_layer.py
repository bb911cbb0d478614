from __future__ import annotations

import pytest
import torch
from torch import nn

from plait.errors import ConfigError
from plait.training.serving.adapter import Factors, ServedAdapter
from plait.training.serving.layer import RoutedLayer, route_layers


def adapter(name: str, rank: int, *, layers: tuple[str, ...] = ("0", "1"), scale: float = 0.5) -> ServedAdapter:
    generator = torch.Generator().manual_seed(rank)
    shapes = {"0": (5, 4), "1": (3, 5)}
    return ServedAdapter(
        name,
        {
            layer: Factors(
                torch.randn(rank, shapes[layer][1], generator=generator),
                torch.randn(shapes[layer][0], rank, generator=generator),
                scale,
            )
            for layer in layers
        },
    )


def dense(model: nn.Sequential, x: torch.Tensor, served: ServedAdapter | None) -> torch.Tensor:
    """The same in float64, with the products formed."""
    y = x.double()
    for name, layer in (("0", model[0]), ("1", model[1])):
        weight = layer.base.weight.double()
        factors = served.factors.get(name) if served else None
        if factors:
            weight = weight + factors.scale * factors.B.double() @ factors.A.double()
        y = y @ weight.T + layer.base.bias.double()
    return y


@pytest.mark.parametrize("tokens", [1, 4])
def test_every_row_gets_its_own_adapter_and_no_other(tokens: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    routing = route_layers(model)
    assert all(isinstance(layer, RoutedLayer) for layer in model)
    a, b, c = adapter("a", 2), adapter("b", 3, layers=("1",), scale=2.0), adapter("c", 1)
    for rows in ([a], [None], [None, None], [a, a], [a, b, None, a, c], [b, b, c], [None, c], [a, b, c], [c]):
        x = torch.randn(len(rows), tokens, 4)
        routing.assign(rows)
        with torch.no_grad():
            y = model(x)
        for index, served in enumerate(rows):
            torch.testing.assert_close(y[index].double(), dense(model, x[index], served), rtol=1e-4, atol=1e-5)


def test_another_version_under_the_same_name_is_another_adapter() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    routing = route_layers(model)
    old, new = adapter("a", 2), adapter("a", 3)
    x = torch.randn(2, 1, 4)
    routing.assign([old, new])
    with torch.no_grad():
        y = model(x)
    for index, served in enumerate((old, new)):
        torch.testing.assert_close(y[index].double(), dense(model, x[index], served), rtol=1e-4, atol=1e-5)


def test_a_layer_that_mixes_the_rows_of_a_batch_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    routing = route_layers(model)
    routing.assign([adapter("a", 2), adapter("c", 1)])
    with pytest.raises(ConfigError, match="layer '0' of this base mixes the rows"), torch.no_grad():
        model(torch.randn(2, 4))
