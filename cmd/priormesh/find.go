package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
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
	Patient     words `placeholder:"ID" help:"Patient ID."`
	Issuer      words `placeholder:"WHO" help:"Who issued the Patient ID: the trust's code, or what its identity.default_issuer or the images say."`
	NHS         words `name:"nhs" placeholder:"NUMBER" help:"NHS number, with or without spaces; found where NHS is the issuer (see below)."`
	Name        words `placeholder:"NAME" help:"Patient's name; * and ? stand for anything."`
	Born        words `placeholder:"DATE" help:"Patient's birth date: 1958-03-31. A study without one, or with a year alone, is in no answer; that there is one is said."`
	Accession   words `placeholder:"NUMBER" help:"Accession number; * and ? stand for anything."`
	Description words `placeholder:"TEXT" help:"Study description; * and ? stand for anything."`
	Body        words `placeholder:"CS" help:"Body part examined, such as HEAD."`
	Trust       words `placeholder:"ODS" help:"Studies that this trust received."`
	Modality    words `placeholder:"CS" help:"Modality, such as CT."`
	Since       words `placeholder:"DATE" help:"Studies of this day and later: 2024-03-31. A study without a date, or with a year alone, is in no range; that there is one is said."`
	Until       words `placeholder:"DATE" help:"Studies of this day and earlier."`
	Study       words `placeholder:"UID" help:"Study Instance UID."`
	Limit       count `default:"100" help:"At most this many, newest first (1 to 1000)."`
	Offset      count `default:"0" help:"Leave out this many."`
	After       words `placeholder:"CURSOR" help:"Go on after a page of before: what its last line said."`
}

// words is what a flag asks for. Empty, it would ask for everybody: a script
// whose variable is not set must not be given the whole region.
type words string

// Decode refuses what is empty.
func (s *words) Decode(ctx *kong.DecodeContext) error {
	if err := ctx.Scan.PopValueInto("string", (*string)(s)); err != nil {
		return err
	}
	if strings.TrimSpace(string(*s)) == "" {
		return errors.New("is empty; leave the flag out to ask for any")
	}
	return nil
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

What is asked for must all be true of a study as one trust tells it. Text without * or ? must be the whole value; a name without ^ is a family name; case and accents do not matter in names and descriptions.

A study without a birth date, or whose birth date is no full date (1960), is not found by --born; nor one without a full study date by --since and --until. Beside --patient, --nhs, --name, --accession or --study it is said how many there are, as far as one look at 256 studies tells: leave the date out to see them.

Where one node received instances of two people under one Study Instance UID, the study is found by the Patient ID of either (--patient), and by name, birth date, sex and NHS number of one of them only, as a rule the one whose instance came first: a search for the other by name finds nothing, and cannot say so.

PATIENT is the number and, in brackets, who issued it. A Patient ID is an NHS number only where its issuer says so: NHS, 2.16.840.1.113883.2.1.4.1 or https://fhir.nhs.uk/Id/nhs-number, named in the images or as the trust's identity.default_issuer. Under any other issuer the same digits are that issuer's number: ask for them with --patient.

A number may stand on studies of two people by mistake. Where not all studies found by --patient or --nhs are known to be one patient's, a first column tells the patients apart by a letter, and a warning says so; "?" is of a further patient, or not told apart. So it is with a pattern of Patient IDs.

A patient may have several numbers. Studies that are certainly a patient's who was asked for by --patient or --nhs, and bear another number only, follow in a table of their own, as far as all else that was asked for fits. Studies that may be the same patient's, and bear another number, or contradict in name, birth date or sex the study asked for by --study, follow in another one. No node brings them by itself: compare, then fetch them.

INSTANCES ends with + where several trusts received the study and not all of their lists are here: there may be more. TRUSTS received the study. WHERE is "here" (whole on this node), "partly" (a part is whole here: what one trust received, or an older revision), "elsewhere", "damaged", "lost", or "in doubt": what was found names, or may name, another patient than what is given to who reads the study, which has the same UID. --json has all that is known: times, NHS number, who received what, who holds copies, and how far each trust has been heard.

Examples:

    all studies of a patient, by a number and who issued it
        priormesh find --home /srv/priormesh --patient 98890234 --issuer RX1
    by NHS number, the last two years
        priormesh find --home /srv/priormesh --nhs '943 476 5919' --since 2023-01-01
    by name and birth date, whoever issued the numbers
        priormesh find --home /srv/priormesh --name 'DOE^J*' --born 1958-03-31
    one examination, by its accession number
        priormesh find --home /srv/priormesh --accession 'RAD-2024-0117'
    what a trust received of one kind in one month
        priormesh find --home /srv/priormesh --trust RX2 --modality MR --since 2024-03-01 --until 2024-03-31
    who received which part of a study, and who holds copies
        priormesh find --home /srv/priormesh --study 1.2.826.0.1.3680043.8.498.1 --json | jq '.studies[].versions'`
}

func (c *findCmd) Run(p *program) error {
	for flag, v := range map[string]*string{"since": (*string)(&c.Since), "until": (*string)(&c.Until), "born": (*string)(&c.Born)} {
		if err := day(v); err != nil {
			return exit(exitWrongUse, "--%s: %w", flag, err)
		}
	}
	if c.Since != "" && c.Until != "" && c.Until < c.Since {
		return exit(exitWrongUse, "--until %s is before --since %s", dateText(string(c.Until)), dateText(string(c.Since)))
	}
	if c.Study != "" && !dicom.UID(c.Study).Valid() {
		return exit(exitWrongUse, "--study: %w", noUID(string(c.Study)))
	}
	if c.Limit < 1 || c.Limit > 1000 {
		return exit(exitWrongUse, "--limit is 1 to 1000")
	}
	if c.After != "" && c.Offset > 0 {
		return exit(exitWrongUse, "give --after or --offset, not both")
	}
	if _, err := hex.DecodeString(string(c.After)); err != nil {
		return exit(exitWrongUse, "--after: %s is not what a page of before ended with; leave it out to begin again", short(string(c.After), 20))
	}
	if strings.ContainsAny(string(c.Modality), `,;\`) {
		return exit(exitWrongUse, "--modality takes one code, such as CT; ask for each in turn")
	}
	client, err := c.client(p.ctx)
	if err != nil {
		return err
	}
	got, err := client.Find(p.ctx, api.Filter{Patient: string(c.Patient), Issuer: string(c.Issuer), NHS: string(c.NHS), Name: string(c.Name), Born: string(c.Born),
		Accession: string(c.Accession), Description: string(c.Description), BodyPart: string(c.Body), Trust: string(c.Trust), Modality: string(c.Modality),
		Since: string(c.Since), Until: string(c.Until), Study: string(c.Study), Limit: int(c.Limit), Offset: int(c.Offset), After: string(c.After)})
	if err != nil {
		return err
	}
	// A trust that has left may still be told of; of one that never was there is nothing.
	if c.Trust != "" && got.Total == 0 && len(got.Basis) > 0 && !slices.ContainsFunc(got.Basis, func(b api.Basis) bool { return strings.EqualFold(b.Trust, string(c.Trust)) }) {
		var known []string
		for _, b := range got.Basis {
			known = append(known, b.Trust)
		}
		return exit(exitWrongUse, "--trust: %s is not a trust of this region; there are %s", short(string(c.Trust), 20), plain(strings.Join(known, ", ")))
	}
	shown := len(got.Studies)+len(got.Further) > 0
	if shown || p.json {
		if err := p.result(got, func(w io.Writer) {
			if len(got.Studies) > 0 {
				studyTable(w, got.Studies)
			}
			if len(got.Further) > 0 {
				fmt.Fprint(w, "\nthe same patient's, under another number:\n")
				studyTable(w, got.Further)
			}
			if len(got.Possible) > 0 {
				fmt.Fprint(w, "\nperhaps the same patient's, and not known to be:\n")
				studyTable(w, got.Possible)
			}
		}); err != nil {
			return err
		}
	}
	if shown && !p.json { // with nothing found they are the answer
		for _, w := range got.Warnings {
			p.note("warning: %s", plain(w))
		}
	}
	if c.Name != "" && !strings.ContainsAny(string(c.Name), "*?") && !p.json {
		p.note("names were compared whole: %s", nameHint(string(c.Name)))
	}
	damaged, lost := 0, lostStudies{}
	for _, s := range got.Studies {
		lost.add(s)
		if s.Damaged {
			damaged++
		}
	}
	if damaged > 0 && !p.json {
		p.note("damaged: not all that was received here of %s can be read; `priormesh status` says why it is not repaired", plural(damaged, "study", "studies"))
	}
	if !p.json {
		for _, text := range lost.texts() {
			p.note("%s", text)
		}
	}
	switch next := int(c.Offset) + len(got.Studies); {
	case p.json:
	case got.Next != "" && c.After == "" && got.Total > next:
		p.note("%d more: go on with --after %s", got.Total-next, plain(got.Next))
	case got.Next != "":
		p.note("there are more: go on with --after %s", plain(got.Next))
	case len(got.Studies) > 0 && next < got.Total && c.After == "":
		p.note("%d more: go on with --offset %d", got.Total-next, next)
	}
	if shown {
		return nil
	}
	return nothingShown(got, int(c.Offset), string(c.After))
}

// nothingShown says why an answer shows no study, and what may be missing of it.
func nothingShown(got api.Found, offset int, after string) error {
	warned := plain(strings.Join(got.Warnings, "; "))
	switch {
	case got.Next != "":
		return exit(exitNotFound, "no study is shown of this page: %s", warned)
	case got.Total > 0 && after != "" && warned != "":
		return exit(exitNotFound, "no study was found after this page, and there may be more: %s", warned)
	case got.Total > 0 && after != "":
		return exit(exitNotFound, "no study after this page")
	case got.Total > 0 && offset < got.Total:
		return exit(exitNotFound, "no study is shown: %s", warned)
	case got.Total > 0 && warned != "":
		return exit(exitNotFound, "no study was found from --offset %d on: %d were counted, and there may be more: %s", offset, got.Total, warned)
	case got.Total > 0:
		return exit(exitNotFound, "no study from --offset %d on: there are %d", offset, got.Total)
	case warned != "":
		return exit(exitNotFound, "no study matched in what this node has heard, which may not be all there is: %s", warned)
	}
	return exit(exitNotFound, "no study matched")
}

// lostStudies counts what this node received and has lost, by what is done about it.
type lostStudies struct {
	coming, copied, nowhere int
	copies                  []string // trusts that hold any
}

func (l *lostStudies) add(s api.Study) {
	switch {
	case !s.Lost:
		return
	case len(s.LostCopies) == 0:
		l.nowhere++
		return
	case s.Coming:
		l.coming++
	default:
		l.copied++
	}
	l.copies = append(l.copies, s.LostCopies...)
}

func (l *lostStudies) texts() (out []string) {
	slices.Sort(l.copies)
	at := plain(strings.Join(slices.Compact(l.copies), ", "))
	for _, x := range []struct {
		n    int
		what string
	}{
		{l.coming, "copies at " + at + ": being brought"},
		{l.copied, "copies at " + at + ": bring them with `priormesh fetch`"},
		{l.nowhere, "no copy is known: have them sent again, or import them"},
	} {
		if x.n > 0 {
			out = append(out, fmt.Sprintf("lost here: %s received by this node, of which nothing is here since it was restored from an older backup; %s", plural(x.n, "study was", "studies were"), x.what))
		}
	}
	return out
}

// nameHint says by which patterns more is found than by a name without any.
func nameHint(name string) string {
	pattern := func(text string) string { return "--name " + quoted(text) }
	if words := strings.Fields(name); len(words) > 1 && !strings.ContainsAny(name, "^,=") { // which is the family name?
		first, last := words[0], words[len(words)-1]
		return fmt.Sprintf("if the family name is last, %s finds it, and %s all names with %s in them; if it is first, %s", pattern(last+"*"), pattern("*"+first+"*"), short(first, 20), pattern(first+"*"))
	}
	family, _, _ := strings.Cut(name, "^")
	family, _, _ = strings.Cut(family, ",")
	if family = strings.TrimSpace(family); family == "" {
		return fmt.Sprintf("%s finds those that go on, too", pattern(name+"*"))
	}
	return fmt.Sprintf("with * at the end, as in %s, those with further names and titles are found too, and those with a comma; with * on both sides, as in %s, also those with the given name first", pattern(family+"*"), pattern("*"+family+"*"))
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
	return errors.New("is no date; write it like 2024-03-31")
}

func studyTable(out io.Writer, studies []api.Study) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	several := slices.ContainsFunc(studies, func(s api.Study) bool { return s.Person > 0 })
	if several {
		fmt.Fprint(w, "PERSON\t")
	}
	fmt.Fprintln(w, "PATIENT\tNAME\tBORN\tSEX\tACCESSION\tDATE\tMODALITY\tDESCRIPTION\tINSTANCES\tTRUSTS\tWHERE\tSTUDY")
	for _, s := range studies {
		where := "elsewhere"
		if s.Availability == "ONLINE" {
			where = "here"
		} else if s.Availability == "UNAVAILABLE" {
			where = "in doubt"
		} else if s.Lost {
			where = "lost"
		} else if s.Damaged {
			where = "damaged"
		} else if s.PartlyHere {
			where = "partly"
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
		if several {
			fmt.Fprintf(w, "%s\t", letter(s.Person))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", or(short(patient, 40)), or(name), or(dateText(s.BirthDate)), or(short(s.Sex, 4)), or(short(s.Accession, 20)),
			or(dateText(s.Date)), list(s.Modalities), or(short(s.Description, 30)), instances, list(s.Trusts), where, plain(s.Study))
	}
	w.Flush()
}

// letter names one of several patients.
func letter(person int) string {
	if person < 1 || person > 26 {
		return "?"
	}
	return string(rune('A' + person - 1))
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
