// A thread that no signal is delivered to, and whose own threads are like that as well: signals
// stay with the thread that handles them, and a write to a closed connection is an error, not
// SIGPIPE.
#pragma once

#include <functional>
#include <thread>

namespace steadyflux {

// Throws std::system_error if the system gives no thread.
std::thread start_quiet_thread(std::function<void()> work);

}  // namespace steadyflux
