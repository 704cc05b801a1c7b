// Ctrl-C and SIGTERM: the first one asks the work to end between two steps, so that nothing partial
// is left behind; the second one ends the program at once. SIGPIPE becomes an error of write().
#pragma once

namespace steadyflux::cli {

void install_signal_handlers();
// SIGINT or SIGTERM if one came, else 0.
int pending_signal();
// Throws Interrupted if one came.
void throw_if_interrupted();

}  // namespace steadyflux::cli
