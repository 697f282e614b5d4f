// Package wildcard compares texts with patterns as DICOM's queries do (PS3.4 C.2.2.2.4): * stands for any characters or none, ? for any
// one. It is below the packages that find studies, index and dicom/dicomweb, of which neither may know the other. It imports nothing of
// this project.
package wildcard

import (
	"strings"
	"unicode/utf8"
)

// Match reports whether the whole of s is as the pattern says. What is not UTF-8 counts as U+FFFD, byte by byte.
//
// Patterns come from outside. The time is proportional to the length of both together, however many * there are; of a pattern with ? to
// that of s, for each 64 characters between two *.
func Match(pattern, s string) bool {
	pattern, s = valid(pattern), valid(s)
	first, rest, starred := strings.Cut(pattern, "*")
	n, ok := begins(s, first)
	if !ok || !starred {
		return ok && n == len(s)
	}
	s = s[n:]
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return ends(s, part)
		}
		// Where it comes first leaves the most to what follows.
		end, ok := find(s, part)
		if !ok {
			return false
		}
		s, rest = s[end:], after
	}
}

func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// begins says whether s begins with a part without *, and how many bytes that is.
func begins(s, part string) (n int, ok bool) {
	for _, p := range part {
		c, size := utf8.DecodeRuneInString(s[n:])
		if size == 0 || p != '?' && p != c {
			return 0, false
		}
		n += size
	}
	return n, true
}

func ends(s, part string) bool {
	at := len(s)
	for range part {
		_, size := utf8.DecodeLastRuneInString(s[:at])
		if size == 0 {
			return false
		}
		at -= size
	}
	_, ok := begins(s[at:], part)
	return ok
}

// find says where the first place ends at which s has a part without *.
func find(s, part string) (end int, ok bool) {
	if !strings.Contains(part, "?") {
		i := strings.Index(s, part)
		return i + len(part), i >= 0
	}
	// Bit i of the state is set where the part's first i+1 characters end (shift-and).
	chars := utf8.RuneCountInString(part)
	words := (chars + 63) / 64
	any := make([]uint64, words)
	of := map[rune][]uint64{}
	at := 0
	for _, p := range part {
		if p == '?' {
			any[at/64] |= 1 << (at % 64)
		} else {
			if of[p] == nil {
				of[p] = make([]uint64, words)
			}
			of[p][at/64] |= 1 << (at % 64)
		}
		at++
	}
	state := make([]uint64, words)
	for i, c := range s {
		mask := of[c]
		carry := uint64(1)
		for w, x := range state {
			m := any[w]
			if mask != nil {
				m |= mask[w]
			}
			state[w] = (x<<1 | carry) & m
			carry = x >> 63
		}
		if state[words-1]>>((chars-1)%64)&1 == 1 {
			return i + utf8.RuneLen(c), true
		}
	}
	return 0, false
}
