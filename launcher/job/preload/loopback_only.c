// Preloaded into an mpirun whose ranks are all on this host. Open MPI's mpirun listens on all
// addresses, whatever its parameters say (oob_tcp_listener.c, create_listen: INADDR_ANY); here
// these become the loopback address.
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

// The children of mpirun, ranks among them, are left as they are.
__attribute__((constructor)) static void LeaveEnvironment(void) {
  const char* names = getenv("LD_PRELOAD");
  const char* others = names != NULL ? strchr(names, ':') : NULL;
  if (others != NULL) {
    setenv("LD_PRELOAD", others + 1, 1);
  } else {
    unsetenv("LD_PRELOAD");
  }
}

int bind(int fd, const struct sockaddr* address, socklen_t length) {
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  if (address != NULL && address->sa_family == AF_INET && length >= sizeof(v4)) {
    memcpy(&v4, address, sizeof(v4));
    if (v4.sin_addr.s_addr == htonl(INADDR_ANY)) v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return (int)syscall(SYS_bind, fd, &v4, sizeof(v4));
  }
  if (address != NULL && address->sa_family == AF_INET6 && length >= sizeof(v6)) {
    memcpy(&v6, address, sizeof(v6));
    if (IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr)) v6.sin6_addr = in6addr_loopback;
    return (int)syscall(SYS_bind, fd, &v6, sizeof(v6));
  }
  return (int)syscall(SYS_bind, fd, address, length);
}
