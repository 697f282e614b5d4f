//go:build !unix

package cas

import "io"

// lockFile leaves it to the locator's own lock.
func lockFile(string) (io.Closer, error) { return noLock{}, nil }
