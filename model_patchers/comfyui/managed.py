"""A network under ComfyUI's memory management, filled from a file."""

import comfy.model_patcher
import torch
from comfy import model_management
from torch import Tensor, nn

from .fit import check, is_counter


class Managed:
    """A network that ComfyUI loads and unloads.

    Args:
        network: Made on ComfyUI's `unet_offload_device()`, in the types that its weights are kept in.
        weights: Under the network's names. They are converted to its types.
        file: The name to use in messages.
        what: The network's name, such as "SAM", for messages.
        needed: A sentence that says which file to choose, for messages.
        unused: A regular expression of names that files have and the network does not read; by default of none.

    Attributes:
        network: In eval mode.
        patcher: ComfyUI's ModelPatcher of the network.

    Raises:
        ValueError: Tensors are missing, left over, of other shapes or no numbers, as `fit.check` says.
    """

    def __init__(
        self,
        network: nn.Module,
        weights: dict[str, Tensor],
        file: str,
        what: str,
        needed: str = "",
        unused: str = "(?!)",
    ) -> None:
        self.network = network.eval()
        load_device, offload_device = model_management.get_torch_device(), model_management.unet_offload_device()
        self.patcher = comfy.model_patcher.CoreModelPatcher(network, load_device, offload_device)
        own = network.state_dict()
        check(weights, own, file, what, needed, unused)
        weights = {
            key: value.to(own[key].dtype) for key, value in weights.items() if key in own and not is_counter(key)
        }
        network.load_state_dict(weights, strict=False, assign=self.patcher.is_dynamic())

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self.patcher.load_device

    def load(self, memory: float = 0) -> None:
        """Has ComfyUI load the network.

        Args:
            memory: Bytes to keep free on the device beside the weights.
        """
        model_management.load_models_gpu([self.patcher], memory_required=memory)
