// Gives freed memory back to the system. Freed tensors stay in the allocator's arenas otherwise,
// and the next phase would seem to need more than it does.
#pragma once

namespace steadyflux {

// malloc_trim(0) on glibc; does nothing elsewhere.
void release_host_memory();

// For the whole process, before it allocates much: large blocks come from the system one by one and
// go back to it when they are freed. glibc otherwise learns to keep ever larger ones (up to 32 MiB)
// in its arenas, and what a phase takes then depends on what ran before it. Tensors just below the
// size that counts as large do stay there, with gaps between them: half a MiB leaves 2 MiB of gaps
// where a whole one left 10 (denoising 704 x 704 with the bundled model).
void return_large_blocks_at_once();

}  // namespace steadyflux
