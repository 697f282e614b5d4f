package cas

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncData brings the bytes and the size of a file to disk, but not when it was changed.
func syncData(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
