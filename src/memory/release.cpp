#include "memory/release.h"

#include <cstdlib>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "base/pages.h"

namespace steadyflux {

void release_host_memory() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

void return_large_blocks_at_once() {
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, static_cast<int>(kLargeBlock));
  mallopt(M_TRIM_THRESHOLD, 4 << 20);
#endif
}

}  // namespace steadyflux
