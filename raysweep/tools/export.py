"""Write a trained network in another tool's format, checked by loading it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from raysweep.errors import ConfigError, StoreError
from raysweep.store import checkpoint, files
from raysweep.tools.predict import Network
from raysweep.training import guest

TOLERANCE = 1e-5  # between the probabilities of the network here and of what was exported


_TRIED = 8  # images


def export(network: Network, form: str, target: Path) -> float:
    """Write the network into a file of another tool's format, with its facts as JSON beside it.

    Both are written only after the file was loaded again and gave the same probabilities.

    Returns:
        The largest difference of a probability.

    Raises:
        ConfigError: the tool's library is not installed. StoreError: the exported network gives other probabilities, or cannot
        be written.
    """
    height, width, channels = network.shape
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (_TRIED, height, width, channels), dtype=np.uint8)
    expected = network.probabilities(pixels)
    temp = files.temp_path(target)
    of_weights = {"safetensors": _safetensors, "pytorch": _pytorch}
    of_networks = {"onnx": _onnx, "torchscript": _torchscript}  # which also hold the computation
    try:
        with guest.quiet(network.name):
            if form in of_weights:
                found = of_weights[form](network, network.standardised(pixels), temp)
            else:
                with network.in_ordinary_format() as ordinary:
                    found = of_networks[form](ordinary, ordinary.standardised(pixels), temp)
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE:
            raise StoreError(
                f"The exported network differs from the checkpoint's by {difference:.2g} in a probability, more than {TOLERANCE:g}; "
                "nothing was written. Please report it with the model's name."
            )
        files.write_atomic(target, files.read_all(temp))
        files.write_json(target.with_name(target.name + ".json"), {**network.facts(), "format": form})
    finally:
        temp.unlink(missing_ok=True)
    return difference


def _probabilities(network: Network, logits: Any) -> np.ndarray:
    return network.of_logits(torch.as_tensor(logits)).numpy()


def _safetensors(network: Network, x: torch.Tensor, target: Path) -> np.ndarray:
    from safetensors.torch import load_file, save_file

    facts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in network.facts().items()}
    return _weights(network, x, lambda stored: save_file(stored, target, metadata=facts), lambda: load_file(target))


def _pytorch(network: Network, x: torch.Tensor, target: Path) -> np.ndarray:
    return _weights(network, x, lambda stored: torch.save(stored, target), lambda: checkpoint.read(target))


def _weights(
    network: Network, x: torch.Tensor, write: Callable[[dict[str, torch.Tensor]], Any], read: Callable[[], Any]
) -> np.ndarray:
    """Write the tensors under the names that they have in the network's own code, and read them again."""
    model = network.model
    tensors = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    stored = dict(tensors)
    if network.adjustment is not None:  # the file has no computation of its own, so they go into the last layer
        bias = _bias(network, x)
        stored[bias] = tensors[bias] + network.offsets.to(tensors[bias].dtype)
    write(stored)
    model.load_state_dict(
        {k: torch.zeros_like(v) for k, v in tensors.items()}
    )  # so that only the file can restore them
    try:
        model.load_state_dict(read())
        with torch.no_grad():
            return _probabilities(network, model(x))
    finally:
        model.load_state_dict(tensors)


def _bias(network: Network, x: torch.Tensor) -> str:
    """The name of the bias that is added last, to the logits.

    Raises:
        ConfigError: there is none.
    """
    outputs: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                outputs[name] = output

        return hook

    found = {n: m for n, m in network.model.named_modules() if isinstance(getattr(m, "bias", None), nn.Parameter)}
    handles = [module.register_forward_hook(remember(name)) for name, module in found.items()]
    try:
        with torch.no_grad():
            logits = network.model(x)
    finally:
        for handle in handles:
            handle.remove()
    last = [n for n, y in outputs.items() if y.shape == logits.shape and torch.equal(y, logits)]
    if not last or found[last[-1]].bias.shape != logits.shape[1:]:
        raise ConfigError(
            f"--adjust: the last layer of {network.name} has no bias into which the offsets could go. Use --to onnx or --to torchscript."
        )
    return f"{last[-1]}.bias" if last[-1] else "bias"


class _Logits(nn.Module):
    """The network as one module with one input, from whatever library it comes, with its offsets."""

    offsets: torch.Tensor | None

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.body = network.model
        self.register_buffer("offsets", network.offsets if network.adjustment is not None else None)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(pixels)
        return logits if self.offsets is None else logits + self.offsets


def _torchscript(network: Network, x: torch.Tensor, target: Path) -> np.ndarray:
    import warnings

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and the image's size becomes fixed
        traced = torch.jit.trace(  # type: ignore[no-untyped-call, unused-ignore]
            _Logits(network), x[:2], check_trace=False
        )
        torch.jit.save(traced, str(target), _extra_files={"raysweep.json": json.dumps(network.facts())})
        again = torch.jit.load(str(target), map_location="cpu")  # type: ignore[no-untyped-call, unused-ignore]
        return _probabilities(network, again(x))


def _onnx(network: Network, x: torch.Tensor, target: Path) -> np.ndarray:
    import contextlib
    import io
    import logging
    import warnings

    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - the exporter needs it
    except ImportError as error:
        raise ConfigError(
            f"--to onnx needs {error.name}, which is not installed. Install it with: pip install 'raysweep[onnx]'"
        ) from None
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Logits(network).eval(), (x[:2],), str(target), input_names=["pixels"], output_names=["logits"],
                dynamo=True, dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}}, external_data=False, verbose=False,
            )  # fmt: skip
    finally:
        noise.setLevel(level)
    model = onnx.load(str(target))
    for key, value in network.facts().items():
        model.metadata_props.add(
            key=key, value=value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        )
    onnx.save(model, str(target))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return _probabilities(network, logits)
