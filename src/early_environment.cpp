// Threads of OpenMP (libtorch's) wait for each other by spinning, for milliseconds by default. On a
// machine that does other things too, they spin while those they wait for do not run: pictures have
// been seen to take ten times as long. How long they spin is read from the environment when the
// library is loaded, before main(); so it is set by starting anew, before any library has done
// anything, which costs a few milliseconds. Whoever sets one of the variables is left alone.
#include <unistd.h>

#include <climits>
#include <cstring>

namespace {

// Rounds of spinning before a thread goes to sleep: a few microseconds, which is what waking up
// takes.
char spin_count[] = "GOMP_SPINCOUNT=1000";

bool begins_with(const char* text, const char* prefix) {
  return std::strncmp(text, prefix, std::strlen(prefix)) == 0;
}

void start_anew_with_short_spins(int, char** argv, char** environment) {
  constexpr std::size_t kMost = 4096;
  static char* extended[kMost + 2];
  std::size_t count = 0;
  for (; environment[count] != nullptr; ++count) {
    const char* variable = environment[count];
    if (count == kMost || begins_with(variable, "GOMP_SPINCOUNT=") ||
        begins_with(variable, "OMP_WAIT_POLICY=")) {
      return;
    }
    extended[count] = environment[count];
  }
  extended[count] = spin_count;
  static char program[PATH_MAX];
  const auto length = ::readlink("/proc/self/exe", program, sizeof program - 1);
  if (length <= 0) return;
  program[length] = '\0';
  ::execve(program, argv, extended);  // if it does not work, all is as it was
}

// The linker calls what is in this section before the initialisers of any library.
[[gnu::section(".preinit_array"),
  gnu::used]] void (*const kFirst)(int, char**, char**) = start_anew_with_short_spins;

}  // namespace
