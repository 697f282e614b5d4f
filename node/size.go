package node

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var sizeUnits = []struct {
	name  string
	bytes float64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
}

// Size is a number of bytes, written as "512MiB" in config.toml.
type Size int64

// UnmarshalText reads "512MiB", "1.5 TB", "0", "".
func (s *Size) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	wrong := fmt.Errorf("%q is not a size; write it like \"512MiB\", \"200GiB\" or \"1.5TB\"", b)
	if text == "" || text == "0" {
		*s = 0
		return nil
	}
	for _, u := range sizeUnits {
		cut := len(text) - len(u.name)
		if cut < 0 || !strings.EqualFold(text[cut:], u.name) {
			continue
		}
		number := text[:cut]
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || v < 0 || math.IsNaN(v) {
			return wrong
		}
		if v *= u.bytes; v >= math.MaxInt64 {
			return fmt.Errorf("%q is more than any disk holds", b)
		}
		*s = Size(v)
		return nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return fmt.Errorf("%q has no unit; write it like \"512MiB\" or \"200GiB\"", b)
	}
	return wrong
}

// MarshalText writes a form that UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) {
	for _, u := range sizeUnits[:4] {
		if n := int64(u.bytes); s > 0 && int64(s)%n == 0 {
			return fmt.Appendf(nil, "%d%s", int64(s)/n, u.name), nil
		}
	}
	if s == 0 {
		return []byte("0"), nil
	}
	return fmt.Appendf(nil, "%dB", int64(s)), nil
}

// String is for people.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if v := float64(s) / u.bytes; math.Abs(v) >= 1 {
			return strconv.FormatFloat(v, 'g', 4, 64) + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", int64(s))
}
