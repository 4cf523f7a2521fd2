package sandbox

import (
	"fmt"
	"net"
	"strconv"

	"golang.org/x/sys/unix"
)

// raiseLoopback brings lo up and adds the addresses, each as a /32, so that
// only these are local and everything else is unreachable. It uses ioctls
// because the machine may not have iproute2.
func raiseLoopback(addrs []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	defer unix.Close(fd)
	for i, a := range addrs {
		ip := net.ParseIP(a).To4()
		if ip == nil {
			return fmt.Errorf("network: %q is not an IPv4 address", a)
		}
		label := "lo:" + strconv.Itoa(i)
		if err := setAddr(fd, unix.SIOCSIFADDR, label, ip); err != nil {
			return fmt.Errorf("network: add %s to lo: %w", a, err)
		}
		if err := setAddr(fd, unix.SIOCSIFNETMASK, label, net.IPv4bcast.To4()); err != nil {
			return fmt.Errorf("network: netmask of %s: %w", a, err)
		}
	}
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("network: bring lo up: %w", err)
	}
	return nil
}

func setAddr(fd int, op uint, label string, ip net.IP) error {
	ifr, err := unix.NewIfreq(label)
	if err != nil {
		return err
	}
	if err := ifr.SetInet4Addr(ip); err != nil {
		return err
	}
	return unix.IoctlIfreq(fd, op, ifr)
}
