#include "sharing/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }

 private:
  int fd_;
};

// No addresses if the name cannot be resolved.
Addresses resolve(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) != 0) found = nullptr;
  return {found, &freeaddrinfo};
}

bool connects(const addrinfo& address, std::chrono::milliseconds timeout) {
  const Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (socket.fd() < 0) return false;
  if (::connect(socket.fd(), address.ai_addr, address.ai_addrlen) == 0) return true;
  if (errno != EINPROGRESS) return false;
  pollfd wanted{socket.fd(), POLLOUT, 0};
  if (::poll(&wanted, 1, static_cast<int>(timeout.count())) != 1) return false;
  int error = 0;
  socklen_t length = sizeof(error);
  return getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &length) == 0 && error == 0;
}

bool same_address(const sockaddr& a, const sockaddr& b) {
  if (a.sa_family != b.sa_family) return false;
  if (a.sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in&>(a).sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in&>(b).sin_addr.s_addr;
  }
  if (a.sa_family != AF_INET6) return false;
  return std::memcmp(&reinterpret_cast<const sockaddr_in6&>(a).sin6_addr,
                     &reinterpret_cast<const sockaddr_in6&>(b).sin6_addr, sizeof(in6_addr)) == 0;
}

bool is_loopback(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    const auto& ipv4 = reinterpret_cast<const sockaddr_in&>(address);
    return ntohl(ipv4.sin_addr.s_addr) >> 24 == 127;
  }
  return address.sa_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr) != 0;
}

struct Bound {
  int fd = -1;
  int error = 0;
};

Bound bind_and_listen(const addrinfo& address) {
  Socket socket(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.fd() < 0) return {-1, errno};
  const int on = 1;
  const int off = 0;
  // Connections of an earlier run that linger in TIME_WAIT are no obstacle.
  setsockopt(socket.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (address.ai_family == AF_INET6) {
    setsockopt(socket.fd(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  }
  if (::bind(socket.fd(), address.ai_addr, address.ai_addrlen) != 0 ||
      ::listen(socket.fd(), SOMAXCONN) != 0) {
    return {-1, errno};
  }
  return {socket.release(), 0};
}

bool is_numeric(const std::string& host) {
  return resolve(host, "0", AI_NUMERICHOST | AI_NUMERICSERV) != nullptr;
}

// Wildcard addresses: that of IPv6 serves both where there is IPv6.
Addresses addresses_to_bind(const std::string& host, const std::string& port) {
  if (host == "localhost" || is_numeric(host)) return resolve(host, port, AI_NUMERICSERV);
  Addresses any = resolve("::", port, AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE);
  if (any) {
    const Socket probe(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (probe.fd() >= 0) return any;
  }
  return resolve("0.0.0.0", port, AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE);
}

}  // namespace

bool something_listens(const std::string& host, std::uint16_t port,
                       std::chrono::milliseconds timeout) {
  const Addresses addresses = resolve(host, std::to_string(port), AI_NUMERICSERV);
  for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
    if (connects(*at, timeout)) return true;
  }
  return false;
}

bool is_this_machine(const std::string& host) {
  const Addresses addresses = resolve(host, "0", AI_NUMERICSERV);
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) list = nullptr;
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> interfaces(list, &freeifaddrs);
  for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
    if (is_loopback(*at->ai_addr)) return true;
    for (const ifaddrs* own = list; own != nullptr; own = own->ifa_next) {
      if (own->ifa_addr != nullptr && same_address(*own->ifa_addr, *at->ai_addr)) return true;
    }
  }
  return false;
}

std::optional<int> listen_on(const std::string& host, std::uint16_t port) {
  const Addresses addresses = addresses_to_bind(host, std::to_string(port));
  int error = EADDRNOTAVAIL;
  for (const addrinfo* at = addresses.get(); at != nullptr; at = at->ai_next) {
    const Bound bound = bind_and_listen(*at);
    if (bound.fd >= 0) return bound.fd;
    error = bound.error;
    if (error == EADDRINUSE) return std::nullopt;
  }
  throw Error(ErrorKind::kIo, "cannot listen on " + host + ":" + std::to_string(port) + ": " +
                                  std::generic_category().message(error));
}

}  // namespace steadyflux
