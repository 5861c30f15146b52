"""Records features of a narrow Inception-v3 for crates/semanticist-verify/tests/data/reference/inception.safetensors.

The network is that of `pytorch-fid` 0.3.0 (PyPI; pytorch_fid/inception.py) with a sixteenth of the channels of every layer and
random weights, under the names of its published file and of torch-fidelity's. `spatial` is what ADM's evaluator takes sFID
from (openai/guided-diffusion, evaluations/evaluator.py: the first 7 channels of mixed_6/conv, positions before channels).
Usage: record_inception.py OUT.safetensors           (needs torch, torchvision, pytorch-fid and safetensors)
       record_inception.py --full OUT.pth            writes random weights of the full size, to compare whole programs
"""

import json
import sys
from unittest import mock

import torch
import torchvision.models.inception as layers
from pytorch_fid import inception
from safetensors.torch import save_file

FULL = sys.argv[1] == "--full"
NARROWER = 1 if FULL else 16
# Height and width: enlarged, and reduced along one axis.
IMAGES = {"small": (24, 32), "tall": (310, 20)}


class Narrow(layers.BasicConv2d):
    """The convolution of all blocks with fewer channels."""

    def __init__(self, in_channels, out_channels, **options):
        inputs = in_channels if in_channels == 3 else in_channels // NARROWER
        super().__init__(inputs, out_channels // NARROWER, **options)


def network():
    """pytorch-fid's, random: most of a layer's outputs are around 1, and the epsilon of its norms (0.001) is seen."""
    blank, linear = lambda *_, **__: None, torch.nn.Linear
    with (
        mock.patch.object(layers, "BasicConv2d", Narrow),
        mock.patch.object(layers.nn, "Linear", lambda inputs, outputs: linear(inputs // NARROWER, outputs // NARROWER)),
        mock.patch.object(inception, "load_state_dict_from_url", blank),
        mock.patch.object(layers.Inception3, "load_state_dict", blank),
    ):
        whole = inception.fid_inception_v3()
        with mock.patch.object(inception, "fid_inception_v3", lambda: whole):
            blocks = inception.InceptionV3(output_blocks=(0, 1, 2, 3))
    for name, tensor in whole.state_dict().items():
        uniform = lambda low, high: tensor.uniform_(low, high)
        if name.endswith("conv.weight"):
            tensor.normal_(0, (0.08 / tensor[0].numel()) ** 0.5)
        elif name.endswith("bn.weight"):
            uniform(0.5, 1.5)
        elif name.endswith("bn.bias"):
            uniform(-0.3, 0.3)
        elif name.endswith("running_mean"):
            uniform(-0.1, 0.1)
        elif name.endswith("running_var"):
            uniform(0.02, 0.08)
        elif name.startswith("fc."):
            tensor.normal_(0, 0.2)
    # What half precision holds, so that the file can be small.
    with torch.no_grad():
        for tensor in whole.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half().float())
    return whole.eval(), blocks.eval()


torch.manual_seed(0)
whole, blocks = network()
if FULL:
    torch.save(whole.state_dict(), sys.argv[2])
    sys.exit()
spatial = []
whole.Mixed_6d.branch1x1.register_forward_hook(lambda _, __, out: spatial.append(out))
tensors = {f"weights.{name}": value for name, value in whole.state_dict().items()}
tensors = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
for kind, (height, width) in IMAGES.items():
    images = torch.rand(2, 3, height, width)
    tensors[f"{kind}.images"] = images
    with torch.no_grad():
        out = blocks(images)
        for number, maps in enumerate(out):
            # The mean over positions, as pytorch_fid/fid_score.py has it.
            tensors[f"{kind}.features_{number}"] = torch.nn.functional.adaptive_avg_pool2d(maps, (1, 1))[..., 0, 0]
        tensors[f"{kind}.spatial"] = spatial.pop()[:, :7].permute(0, 2, 3, 1).flatten(1)
        tensors[f"{kind}.logits"] = whole.fc(out[3][..., 0, 0])
        print(kind, [round(maps.std().item(), 3) for maps in out])
config = {"note": "pytorch-fid 0.3.0 with a sixteenth of the channels, random weights", "images": list(IMAGES)}
save_file({name: value.contiguous() for name, value in tensors.items()}, sys.argv[1], {"config": json.dumps(config)})
print(len(tensors), "tensors")
