"""What a GPU does over and over, recorded once (a CUDA graph): launching a thousand small kernels
from Python takes longer than they run."""

import torch


class Recorded:
    """A function without arguments and result, which reads and writes tensors that stay where they
    are. The first of its calls records; on a CPU it is only called."""

    memory = None  # what is between the kernels; one graph runs at a time, so that all share it

    def __init__(self, function, device, record=True):
        self.function, self.graph = function, None
        self.record = record and device.type == "cuda"

    def __call__(self):
        if not self.record:
            self.function()
            return
        if self.graph is None:
            self._record()
        self.graph.replay()

    def _record(self):
        # Once without recording: libraries make their workspaces when they are first used.
        beside, current = torch.cuda.Stream(), torch.cuda.current_stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            self.function()
        current.wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=Recorded.memory):
            self.function()
        Recorded.memory = graph.pool()
        self.graph = graph


def check(recorded, results, what):
    """Replayed, it must give the results that it gives when it is called; a function that can be
    called twice. Some sums of a GPU change their order from call to call."""
    if not recorded.record:
        return
    recorded()
    replayed = [result.clone() for result in results]
    recorded.function()
    differences = torch._foreach_norm(torch._foreach_sub(replayed, results))
    apart = torch.stack(differences).norm() / torch.stack(torch._foreach_norm(results)).norm()
    if not apart < 0.02:  # bf16 has 8 bits
        raise SystemExit(f"the recorded {what} is {apart:.3g} off what it should be")
