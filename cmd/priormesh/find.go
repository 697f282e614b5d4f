package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/node/api"
)

type findCmd struct {
	homeFlag
	Patient     string `placeholder:"ID" help:"Patient ID."`
	Issuer      string `placeholder:"WHO" help:"Who issued the Patient ID."`
	NHS         string `name:"nhs" placeholder:"NUMBER" help:"NHS number, with or without spaces."`
	Name        string `placeholder:"NAME" help:"Patient's name; * and ? stand for anything."`
	Born        string `placeholder:"DATE" help:"Patient's birth date: 1958-03-31."`
	Accession   string `placeholder:"NUMBER" help:"Accession number; * and ? stand for anything."`
	Description string `placeholder:"TEXT" help:"Study description; * and ? stand for anything."`
	Body        string `placeholder:"CS" help:"Body part examined, such as HEAD."`
	Trust       string `placeholder:"ODS" help:"Studies that this trust received."`
	Modality    string `placeholder:"CS" help:"Modality, such as CT."`
	Since       string `placeholder:"DATE" help:"Studies of this day and later: 2024-03-31."`
	Until       string `placeholder:"DATE" help:"Studies of this day and earlier."`
	Study       string `placeholder:"UID" help:"Study Instance UID."`
	Limit       count  `default:"100" help:"At most this many, newest first (1 to 1000)."`
	Offset      count  `default:"0" help:"Leave out this many."`
}

// count is a number from 0.
type count int

// Decode reads the argument whatever it begins with: kong takes -1 for a flag.
func (n *count) Decode(ctx *kong.DecodeContext) error {
	t := ctx.Scan.Pop()
	v, err := strconv.ParseUint(t.String(), 10, 31)
	if t.IsEOL() || err != nil {
		return fmt.Errorf("%q is not a number from 0", short(t.String(), 20))
	}
	*n = count(v)
	return nil
}

func (findCmd) Help() string {
	return `Answered at once from this node's own index of the whole region. What is marked elsewhere comes with ` + "`priormesh fetch`" + `, or by itself when a viewer opens it. Trusts that have not been heard from are named on stderr: their newest studies may be missing, above all when nothing was found. The exit code is 4 when nothing matched.

Examples:

    priormesh find --home /srv/priormesh --patient 98890234
    priormesh find --home /srv/priormesh --name 'DOE^*' --modality MR --since 2023-01-01`
}

func (c *findCmd) Run(p *program) error {
	for flag, v := range map[string]*string{"since": &c.Since, "until": &c.Until, "born": &c.Born} {
		if err := day(v); err != nil {
			return exit(exitWrongUse, "--%s: %w", flag, err)
		}
	}
	if c.Since != "" && c.Until != "" && c.Until < c.Since {
		return exit(exitWrongUse, "--until %s is before --since %s", dateText(c.Until), dateText(c.Since))
	}
	if c.Study != "" && !dicom.UID(c.Study).Valid() {
		return exit(exitWrongUse, "--study: %w", noUID(c.Study))
	}
	if c.Limit < 1 || c.Limit > 1000 {
		return exit(exitWrongUse, "--limit is 1 to 1000")
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	got, err := client.Find(p.ctx, api.Filter{Patient: c.Patient, Issuer: c.Issuer, NHS: c.NHS, Name: c.Name, Born: c.Born, Accession: c.Accession,
		Description: c.Description, BodyPart: c.Body, Trust: c.Trust, Modality: c.Modality,
		Since: c.Since, Until: c.Until, Study: c.Study, Limit: int(c.Limit), Offset: int(c.Offset)})
	if err != nil {
		return err
	}
	if !p.json {
		for _, w := range got.Warnings {
			p.note("warning: %s", plain(w))
		}
	}
	if len(got.Studies) > 0 || p.json {
		if err := p.result(got, func(w io.Writer) { studyTable(w, got.Studies) }); err != nil {
			return err
		}
	}
	damaged := 0
	for _, s := range got.Studies {
		if s.Damaged {
			damaged++
		}
	}
	if damaged > 0 && !p.json {
		p.note("damaged: not all that was received here of %s can be read; `priormesh status` says why it is not repaired", plural(damaged, "study", "studies"))
	}
	if next := int(c.Offset) + len(got.Studies); next < got.Total && !p.json {
		p.note("%d more: go on with --offset %d", got.Total-next, next)
	}
	if len(got.Studies) > 0 {
		return nil
	}
	if got.Total > 0 {
		return exit(exitNotFound, "no study from --offset %d on: there are %d", c.Offset, got.Total)
	}
	if len(got.Warnings) > 0 {
		return exit(exitNotFound, "no study matched in what this node has heard; that is not the whole region: %s", plain(strings.Join(got.Warnings, "; ")))
	}
	return exit(exitNotFound, "no study matched")
}

// day brings a date to the form that the node reads.
func day(v *string) error {
	if *v == "" {
		return nil
	}
	for _, form := range []string{"2006-01-02", "20060102"} {
		if t, err := time.Parse(form, *v); err == nil {
			*v = t.Format("20060102")
			return nil
		}
	}
	return errors.New("write the date like 2024-03-31")
}

func studyTable(out io.Writer, studies []api.Study) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PATIENT\tNAME\tDATE\tMODALITY\tDESCRIPTION\tINSTANCES\tTRUSTS\tWHERE\tSTUDY")
	for _, s := range studies {
		where := "elsewhere"
		if s.Availability == "ONLINE" {
			where = "here"
		} else if s.Damaged {
			where = "damaged"
		}
		patient := s.PatientID
		if s.Issuer != "" {
			patient += " (" + s.Issuer + ")"
		}
		name := short(s.Name, 30)
		if s.MixedPatient {
			name += " [instances name several patients]"
		}
		instances := strconv.Itoa(s.Instances)
		if s.AtLeast {
			instances += "+" // there may be more
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", or(short(patient, 40)), or(name), or(dateText(s.Date)), list(s.Modalities),
			or(short(s.Description, 40)), instances, list(s.Trusts), where, plain(s.Study))
	}
	w.Flush()
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func dateText(da string) string {
	if t, err := time.Parse("20060102", da); err == nil {
		return t.Format(time.DateOnly)
	}
	return short(da, 20)
}
