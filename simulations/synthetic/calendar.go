package synthetic

import (
	"math"
	"time"
)

// First and last day of the ten years.
var (
	From = time.Date(2016, 1, 1, 0, 0, 0, 0, time.UTC)
	To   = time.Date(2025, 12, 31, 0, 0, 0, 0, time.UTC)
)

const growth = 1.035 // a year

// ofWeekday is how busy a day is, from Sunday on.
var ofWeekday = [7]float64{0.30, 1.08, 1.06, 1.02, 1.00, 0.94, 0.36}

// How busy an hour is, on working days and on others.
var (
	workingHours = weigh(24, func(h int) float64 {
		return [24]float64{.3, .25, .22, .2, .2, .22, .3, .7, 2.4, 4.1, 4.6, 4.4, 3.2, 3.4, 4.3, 4.1, 3.1, 1.7, 1.2, 1, .8, .7, .55, .4}[h]
	})
	otherHours = weigh(24, func(h int) float64 {
		return [24]float64{.5, .45, .4, .35, .35, .35, .4, .6, 1, 1.5, 1.8, 1.8, 1.6, 1.6, 1.7, 1.6, 1.5, 1.4, 1.3, 1.2, 1, .9, .75, .6}[h]
	})
)

// calendar spreads studies over the years.
type calendar struct{ days weights }

func newCalendar() calendar {
	return calendar{weigh(int(To.Sub(From).Hours()/24)+1, func(i int) float64 {
		day := From.AddDate(0, 0, i)
		if holiday(day) {
			return ofWeekday[0] * math.Pow(growth, float64(i)/365.25)
		}
		return ofWeekday[day.Weekday()] * math.Pow(growth, float64(i)/365.25)
	})}
}

// holiday knows the holidays that have a date.
func holiday(day time.Time) bool {
	_, m, d := day.Date()
	return m == time.December && (d == 25 || d == 26) || m == time.January && d == 1
}

// at is the time that has this part of all studies before it.
func (c calendar) at(part float64) time.Time {
	i, within := c.days.at(part)
	day := From.AddDate(0, 0, i)
	hours := workingHours
	if w := day.Weekday(); w == time.Saturday || w == time.Sunday || holiday(day) {
		hours = otherHours
	}
	h, within := hours.at(within)
	return day.Add(time.Duration((float64(h) + within) * float64(time.Hour)))
}

// attended says whether the departments that keep office hours are open.
func attended(t time.Time) bool {
	w := t.Weekday()
	return w != time.Saturday && w != time.Sunday && !holiday(t) && t.Hour() >= 8 && t.Hour() < 18
}

// summer says whether British Summer Time holds at t: from the last Sunday of
// March to that of October, 1:00 UTC.
func summer(t time.Time) bool {
	last := func(m time.Month) time.Time {
		d := time.Date(t.Year(), m, 31, 1, 0, 0, 0, time.UTC)
		return d.AddDate(0, 0, -int(d.Weekday()))
	}
	return !t.Before(last(time.March)) && t.Before(last(time.October))
}
