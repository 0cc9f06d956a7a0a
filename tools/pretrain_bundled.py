"""`python tools/pretrain_bundled.py CONFIG CHECKPOINT [key=value ...]`: trains the bundled ViT.

Goes on from CHECKPOINT where it exists. At the end, the fp16 weights lie beside it as
`glyph_vit.safetensors`.
"""

import datetime
import sys
from pathlib import Path

import torch

from vpt.backbones.bundled.pretraining import PretrainSettings, export_weights, pretrain
from vpt.config import load_yaml


def main() -> None:
    """Reads the settings, trains, exports."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    settings = PretrainSettings.from_dict(load_yaml(Path(sys.argv[1]), sys.argv[3:]))
    checkpoint = Path(sys.argv[2])
    torch.set_num_threads(settings.threads)
    pretrain(settings, checkpoint=checkpoint, log=lambda line: print(line, flush=True))  # noqa: T201
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    export_weights(
        checkpoint, checkpoint.with_name("glyph_vit.safetensors"), settings=settings, date=today
    )


if __name__ == "__main__":
    main()
