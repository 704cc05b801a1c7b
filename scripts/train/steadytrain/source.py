"""Makes captions, their token ids and pictures: in this process, or in others beside it.

Processes that make pictures write them into shared memory, slot by slot; a queue says which slots
are ready and another which are free, so that they are never far ahead.
"""

import multiprocessing
import os
import queue
import random
from dataclasses import dataclass

import numpy as np

from . import words
from .curriculum import stage_at

SLOT_PIXELS = 1 << 20  # 256 pictures of 64 x 64
SLOTS_PER_WORKER = 3


@dataclass
class Batch:
    size: tuple[int, int]
    pictures: np.ndarray  # uint8 [n, H, W, 3]
    t5_ids: np.ndarray  # int16 [n, 64]
    clip_ids: np.ndarray  # int16 [n, 77]
    cells: np.ndarray  # int16 [n, tokens], what is where
    lengths: np.ndarray  # tokens of each caption, of T5 or CLIP, whichever are more


def vary(caption, rng):
    """Some captions get an ending without a picture, some a capital letter and a full stop."""
    if rng.random() < 0.06:
        caption += rng.choice(words.ENDINGS)
    if rng.random() < 0.1:
        caption = caption.capitalize() + rng.choice([".", ""])
    return caption


class Source:
    """Makes batches one by one, of scenes for the stage that `progress` is in."""

    def __init__(self, maker, tokenize, stages, rng, pixels):
        self.maker, self.tokenize, self.stages = maker, tokenize, stages
        self.rng, self.pixels = rng, pixels

    def get(self, progress, wait=True):
        stage = stage_at(self.stages, progress)
        self.maker.mix = stage.mix
        width, height = size = stage.pick_size(self.rng)
        n = max(1, self.pixels // (width * height))
        samples = [self.maker.sample(self.rng, width, height) for _ in range(n)]
        captions, drawn, cells = zip(*samples)
        t5_ids, clip_ids, lengths = self.tokenize([vary(c, self.rng) for c in captions])
        pictures = np.stack([np.asarray(picture) for picture in drawn])
        return Batch(size, pictures, t5_ids, clip_ids, np.stack(cells), lengths)

    def close(self):
        pass


def _work(source, progress, memory, free, ready):
    memory = np.frombuffer(memory, np.uint8).reshape(-1, SLOT_PIXELS * 3)
    while (slot := free.get()) is not None:
        batch = source.get(progress.value)
        memory[slot, : batch.pictures.size] = batch.pictures.ravel()
        shape, batch.pictures = batch.pictures.shape, None
        ready.put((slot, shape, batch))


class WorkerSource:
    """As Source, from several processes. Start it before CUDA is used: they are forks."""

    def __init__(self, maker, tokenize, stages, seed, workers):
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread in each
        context = multiprocessing.get_context("fork")
        slots = SLOTS_PER_WORKER * workers
        self.buffer = context.RawArray("B", slots * SLOT_PIXELS * 3)
        self.memory = np.frombuffer(self.buffer, np.uint8).reshape(slots, -1)
        self.progress = context.Value("d", 0.0)
        self.free, self.ready = context.Queue(), context.Queue()
        for slot in range(slots):
            self.free.put(slot)
        self.processes = []
        for number in range(workers):
            source = Source(maker, tokenize, stages, random.Random(f"{seed} {number}"), SLOT_PIXELS)
            arguments = (source, self.progress, self.buffer, self.free, self.ready)
            self.processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self.processes[-1].start()

    def get(self, progress, wait=True):
        """A batch whose pictures are valid until the next call; None if none is ready."""
        self.progress.value = progress
        self._give_back()
        try:
            slot, shape, batch = self.ready.get(timeout=120 if wait else 0.0001)
        except queue.Empty:
            if wait:
                raise SystemExit("no process has drawn anything in 120 s") from None
            return None
        batch.pictures = self.memory[slot, : np.prod(shape)].reshape(shape)
        self.lent = slot
        return batch

    lent = None

    def _give_back(self):
        if self.lent is not None:
            self.free.put(self.lent)
            self.lent = None

    def close(self):
        for process in self.processes:
            process.terminate()
