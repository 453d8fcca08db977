"""Lets accelerate choose FSDP on CPUs, which it does only on GPUs."""

import accelerate.state
from accelerate.utils import DistributedType

from xft.training import session


def use_fsdp_on_cpus() -> None:
    """Let FSDP run in this process without a GPU.

    accelerate's state gets the values that its `__init__` sets on GPUs only.
    """
    whole = accelerate.state.AcceleratorState.__init__

    def init(self, *args, fsdp_plugin=None, **kwargs):
        whole(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is None:
            return
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
        accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    accelerate.state.AcceleratorState.__init__ = init
    session.fault_of_devices = lambda options, gpus: None
