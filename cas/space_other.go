//go:build !linux && !darwin

package cas

import (
	"math"
	"os"
)

// freeSpace is not known here, so no write is refused for want of it.
func freeSpace(*os.File) (int64, error) { return math.MaxInt64, nil }
