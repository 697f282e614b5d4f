package node

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // whatever the machine has
)

func TestWindow(t *testing.T) {
	london, err := time.LoadLocation("Europe/London")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		window string
		at     string // a date of 2026; Saturday is 2026-03-28, and clocks go forward in the night to Sunday
		want   bool
	}{
		{"20:00-07:00", "03-25 19:59", false}, {"20:00-07:00", "03-25 20:00", true}, {"20:00-07:00", "03-26 00:00", true},
		{"20:00-07:00", "03-26 06:59", true}, {"20:00-07:00", "03-26 07:00", false}, {"20:00-07:00", "03-29 06:30", true},
		{"09:00-17:00", "03-25 08:59", false}, {"09:00-17:00", "03-25 09:00", true}, {"09:00-17:00", "03-25 17:00", false},
		{"Mon-Fri 20:00-07:00", "03-27 23:00", true}, // Friday
		{"Mon-Fri 20:00-07:00", "03-28 05:00", true}, // which ends on Saturday
		{"Mon-Fri 20:00-07:00", "03-28 23:00", false}, {"Mon-Fri 20:00-07:00", "03-30 05:00", false}, {"mon-fri 20:00-07:00", "03-30 20:00", true},
		{"Sat,Sun 00:00-24:00", "03-28 00:00", true}, {"Sat,Sun 00:00-24:00", "03-29 23:59", true}, {"Sat,Sun 00:00-24:00", "03-30 00:00", false},
		{"Sat-Mon 12:00-13:00", "03-30 12:30", true}, {"Sat-Mon 12:00-13:00", "03-31 12:30", false},
	} {
		var w Window
		if err := w.UnmarshalText([]byte(c.window)); err != nil {
			t.Error(err)
			continue
		}
		at, err := time.ParseInLocation("2006-01-02 15:04", "2026-"+c.at, london)
		if err != nil {
			t.Fatal(err)
		}
		if got := w.Contains(at); got != c.want {
			t.Errorf("%s at %s: %v", c.window, c.at, got)
		}
		if b, _ := w.MarshalText(); string(b) != c.window {
			t.Errorf("%q is written as %q", c.window, b)
		}
	}
	for _, bad := range []string{"", "20:00", "20:00-", "20-7", "24:00-07:00", "20:60-07:00", "25:00-26:00", "07:00-07:00", "Mo 20:00-07:00", "Mon- 20:00-07:00", "20:00-07:00 Mon", "8:00-9:00", "0x:00-09:00"} {
		if err := new(Window).UnmarshalText([]byte(bad)); err == nil || !strings.Contains(err.Error(), "write it like") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
