#include "steadyflux/error.h"

namespace steadyflux {

int Error::exit_code() const {
  switch (kind_) {
    case ErrorKind::kUsage:
      return 2;
    case ErrorKind::kBadInput:
      return 3;
    case ErrorKind::kDoesNotFit:
      return 4;
    case ErrorKind::kIo:
      return 5;
    case ErrorKind::kPartial:
      return 6;
    case ErrorKind::kInternal:
    case ErrorKind::kInterrupted:
      break;
  }
  return 1;
}

}  // namespace steadyflux
