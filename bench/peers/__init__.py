"""Everything a layer can be computed with. Add a peer here and it is in every suite, table and plot."""

from bench.peers.base import Peer, Prepared
from bench.peers.dense import Numpy, Torch, TorchBf16, TorchCompiled, TorchInt8
from bench.peers.elsewhere import DeepSparse
from bench.peers.engines import OnnxRuntime, OnnxRuntimeInt8, OpenVino, OpenVinoBf16
from bench.peers.ours import Prunus, PrunusDot
from bench.peers.sparse import ScipyCsr, TorchBsr, TorchCsr

PEERS: tuple[Peer, ...] = (
    Torch(),
    TorchBf16(),
    TorchCompiled(),
    TorchInt8(),
    Numpy(),
    OnnxRuntime(),
    OnnxRuntimeInt8(),
    OpenVino(),
    OpenVinoBf16(),
    TorchCsr(),
    TorchBsr(),
    ScipyCsr(),
    DeepSparse(),
    Prunus(),
    Prunus("bfloat16"),
    Prunus("int8"),
    *(Prunus(pattern=pattern) for pattern in ("2:4", "1:4", "4:8", "4x4", "1x4", "16x1", "32x1")),
    Prunus(numpy=True),
    *(PrunusDot("int8", pattern) for pattern in ("dense", "4x4", "1x4", "16x4")),
    *(PrunusDot("bfloat16", pattern) for pattern in ("dense", "16x2")),
)
__all__ = ["PEERS", "Peer", "Prepared"]
