#pragma once

#include <cstdio>
#include <cstdlib>

/// Ends the program because of a bug in it, saying where. Never for bad input, which gets a status.
#define TANDEM_CHECK(condition, what)                                                  \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      std::fprintf(stderr, "%s:%d: bug: %s (expected %s)\n", __FILE__, __LINE__, what, \
                   #condition);                                                        \
      std::abort();                                                                    \
    }                                                                                  \
  } while (false)
