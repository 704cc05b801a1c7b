#include "cli/signals.h"

#include <csignal>

#include "steadyflux/error.h"

namespace steadyflux::cli {
namespace {

// A signal handler can reach nothing but a global: the one mutable one of this program.
volatile std::sig_atomic_t g_pending_signal = 0;

void on_signal(int signal) {
  g_pending_signal = signal;
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
}

void install(int signal) {
  struct sigaction previous {};
  sigaction(signal, nullptr, &previous);
  if (previous.sa_handler == SIG_IGN) return;  // nohup and shell scripts mean it
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

}  // namespace

void install_signal_handlers() {
  install(SIGINT);
  install(SIGTERM);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error of write()
}

int pending_signal() { return g_pending_signal; }

void throw_if_interrupted() {
  if (const int signal = pending_signal()) throw Interrupted(signal);
}

}  // namespace steadyflux::cli
