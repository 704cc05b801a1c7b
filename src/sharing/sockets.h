// The few things about TCP that must be known before c10d is asked: does anything listen, is a host
// this machine, and a listening socket bound as narrowly as the address allows. c10d on its own
// listens on every interface, and cannot say that a port is taken without lines in the log.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace steadyflux {

// Whether a connection can be made now, within about `timeout`.
bool something_listens(const std::string& host, std::uint16_t port,
                       std::chrono::milliseconds timeout);

// Whether `host` resolves to an address of this machine, loopback included.
bool is_this_machine(const std::string& host);

// A listening TCP socket; nothing if the port is taken. Addresses in figures and "localhost" are
// bound as they are; a name stands for all interfaces, as a machine's own name often resolves to
// loopback on the machine itself. Throws Error{kIo} for everything else that fails.
std::optional<int> listen_on(const std::string& host, std::uint16_t port);

}  // namespace steadyflux
