"""What a GPU does over and over, recorded once (a CUDA graph): launching a thousand small kernels
from Python takes longer than they run."""

import torch


class Recorded:
    """A function without arguments and result, which reads and writes tensors that stay where they
    are. The first of its calls records; on a CPU it is only called.

    `results()`, if given, are tensors that it writes, and it may be called twice: when it is new, what
    is replayed has to leave the same in them as a call. Some sums of a GPU change their order."""

    memory = None  # what is between the kernels; one graph runs at a time, so that all share it

    def __init__(self, function, device, record=True, results=None):
        self.function, self.results, self.graph = function, results, None
        self.record = record and device.type == "cuda"

    def __call__(self):
        if not self.record:
            self.function()
        elif self.graph is not None:
            self.graph.replay()
        else:
            self._record()
            self.graph.replay()
            if self.results:
                self._check(self.results())

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

    def _check(self, results):
        replayed = [result.clone() for result in results]
        self.function()
        differences = torch._foreach_norm(torch._foreach_sub(replayed, results))
        apart = torch.stack(differences).norm() / torch.stack(torch._foreach_norm(results)).norm()
        if not apart < 0.02:  # bf16 has 8 bits
            raise SystemExit(f"{self.function}: recorded, it is {apart:.3g} off what it should be")
