// Gives freed memory back to the system. Freed tensors stay in the allocator's arenas otherwise,
// and the next phase would seem to need more than it does.
#pragma once

namespace steadyflux {

// malloc_trim(0) on glibc; does nothing elsewhere.
void release_host_memory();

}  // namespace steadyflux
