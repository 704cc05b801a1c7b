#include "sharing/quiet_thread.h"

#include <pthread.h>
#include <signal.h>

#include <string>
#include <system_error>
#include <utility>

#include "steadyflux/error.h"

namespace steadyflux {

std::thread start_quiet_thread(std::function<void()> work) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  std::string trouble;
  try {
    thread = std::thread(std::move(work));
  } catch (const std::system_error& error) {
    trouble = error.code().message();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!trouble.empty()) throw Error(ErrorKind::kIo, "cannot start a thread: " + trouble);
  return thread;
}

}  // namespace steadyflux
