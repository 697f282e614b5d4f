package node

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

var dayNames = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"} // as time.Weekday counts

// Window is a time of the day, of some days of the week, by the clock on the
// wall: "20:00-07:00", "Mon-Fri 20:00-07:00", "Sat,Sun 00:00-24:00". One that
// ends on the next day belongs to the day on which it begins.
type Window struct {
	days     [7]bool
	from, to int // minutes
	text     string
}

// UnmarshalText reads what MarshalText writes.
func (w *Window) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	wrong := func(what string) error {
		return fmt.Errorf("%q %s; write it like \"20:00-07:00\", \"Mon-Fri 20:00-07:00\" or \"Sat,Sun 00:00-24:00\"", text, what)
	}
	*w = Window{text: text}
	days, hours, some := strings.Cut(text, " ")
	if !some {
		days, hours = "", text
	}
	if days == "" {
		w.days = [7]bool{true, true, true, true, true, true, true}
	}
	for part := range strings.SplitSeq(days, ",") {
		if days == "" {
			break
		}
		first, last, span := strings.Cut(part, "-")
		if !span {
			last = first
		}
		i, j := dayOf(first), dayOf(last)
		if i < 0 || j < 0 {
			return wrong("has a day that is none of Mon, Tue, Wed, Thu, Fri, Sat and Sun")
		}
		for d := i; ; d = (d + 1) % 7 {
			w.days[d] = true
			if d == j {
				break
			}
		}
	}
	from, to, ok := strings.Cut(strings.TrimSpace(hours), "-")
	var ok1, ok2 bool
	w.from, ok1 = minuteOf(from)
	w.to, ok2 = minuteOf(to)
	switch {
	case !ok || !ok1 || !ok2 || w.from == 24*60:
		return wrong("is not a time of the day")
	case w.from == w.to:
		return wrong("begins when it ends (the whole day is 00:00-24:00)")
	}
	return nil
}

func dayOf(s string) int {
	return slices.IndexFunc(dayNames, func(d string) bool { return strings.EqualFold(d, s) })
}

func minuteOf(s string) (int, bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	n := 0
	for i, c := range []byte(s) {
		if i == 2 {
			continue
		}
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	h, m := n/100, n%100
	return 60*h + m, m < 60 && 60*h+m <= 24*60
}

// MarshalText writes a window as it was read.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.text), nil }

// Contains says whether it is within the window at a time, in the time's zone.
func (w Window) Contains(t time.Time) bool {
	now, day := 60*t.Hour()+t.Minute(), int(t.Weekday())
	if w.from < w.to {
		return w.days[day] && w.from <= now && now < w.to
	}
	return w.days[day] && now >= w.from || w.days[(day+6)%7] && now < w.to
}
