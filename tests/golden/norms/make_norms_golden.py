"""Writes what PyTorch computes for the three norms in float64: norms.json. PyPI: torch, numpy."""
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

ROWS = 2


def short(values):
    """float32 values with the fewest digits that say them."""
    return np.vectorize(lambda v: float(str(np.float32(v))))(values.numpy()).tolist()


def digits(values):
    return np.vectorize(lambda v: float(f"{v:.11g}"))(values.numpy()).tolist()


def main():
    torch.manual_seed(5)
    cases = []
    for n, scale, offset, epsilon in ((1, 1.0, 0.0, 1e-5), (7, 1.0, 0.5, 1e-6), (64, 30.0, -4.0, 1e-5),
                                      (100, 1e-3, 0.0, 1e-5), (300, 1.0, 100.0, 1e-5)):
        def draw(*shape):
            return torch.randn(*shape, dtype=torch.float64).float().double()

        x = (draw(ROWS, n) * scale + offset).float().double()
        weight, bias = draw(n), draw(n)
        mean, var = draw(n), torch.rand(n, dtype=torch.float64).float().double() + 0.1
        var = var.float().double()
        # As float32 has it: what the file says is rounded.
        epsilon = torch.tensor(epsilon, dtype=torch.float32).double().item()
        cases.append({
            "epsilon": short(torch.tensor(epsilon)), "x": short(x), "weight": short(weight), "bias": short(bias),
            "running_mean": short(mean), "running_var": short(var),
            "rms": digits(F.rms_norm(x, (n,), weight, epsilon) + bias),
            "layer": digits(F.layer_norm(x, (n,), weight, bias, epsilon)),
            "batch": digits(F.batch_norm(x, mean, var, weight, bias, False, 0.0, epsilon))})
    path = pathlib.Path(__file__).parent / "norms.json"
    path.write_text(json.dumps(cases))
    print(path.stat().st_size)


if __name__ == "__main__":
    main()
