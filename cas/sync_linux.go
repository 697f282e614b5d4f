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

// uncache drops what is in memory of a file and not changed.
func uncache(f *os.File) error {
	return os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
}
