package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// namedVersions is of how many studies one answer says in words who received
// what; of more it says that there are.
const namedVersions = 4

// told says what an answer does not show by itself: who received which part of a
// study, which counts are not certain, and what a reader is not given.
func told(found []archive.Found) (warnings []string) {
	var apart, several, mixed []string
	atLeast, copies := 0, 0
	for _, f := range found {
		if f.Apart {
			apart = append(apart, f.UID)
		}
		if f.Study.Mixed {
			mixed = append(mixed, f.UID)
		}
		if f.AtLeast {
			atLeast++
		}
		if f.MoreCopies {
			copies++
		}
		if len(f.Versions) > 1 || f.Versions[0].Fuller != nil || f.Versions[0].Unlisted || f.Versions[0].LostOf > 0 {
			several = append(several, f.UID+": "+versionsText(f.Versions))
		}
	}
	if len(apart) > 0 {
		warnings = append(warnings, fmt.Sprintf("of %s (%s) what matches is a version that names, or may name, another patient than the one that is given to who reads the study: images of both are never given together; compare the patient in the images, and ask the trusts which is right",
			counted(len(apart), "study", "studies"), strings.Join(apart[:min(len(apart), namedVersions)], ", ")))
	}
	if len(mixed) > 0 {
		warnings = append(warnings, fmt.Sprintf("%s instances that name several patients, and is shown under one of them: look whom each image names (%s)",
			counted(len(mixed), "study has", "studies have each"), strings.Join(mixed[:min(len(mixed), namedVersions)], ", ")))
	}
	if atLeast > 0 {
		warnings = append(warnings, fmt.Sprintf("of %s series and instances are counted at the least: several nodes received them and not all of their lists are here, or a copy has more than its origin tells of", counted(atLeast, "study", "studies")))
	}
	if copies > 0 {
		warnings = append(warnings, fmt.Sprintf("of %s not all copies are named: a node tells of more than %d", counted(copies, "study", "studies"), index.MaxHoldings))
	}
	if n := len(several) - namedVersions; n > 0 {
		several = append(several[:namedVersions:namedVersions], fmt.Sprintf("%d studies more of which this is to be said", n))
	}
	return slices.Concat(warnings, several)
}

func counted(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// shortly has the first of the modalities, as long as a modality can be (PS3.5, CS).
func shortly(modalities []string) (out []string) {
	const most, length = 8, 16
	for i, m := range modalities {
		if i == most {
			return append(out, "...")
		}
		out = append(out, m[:min(len(m), length)])
	}
	return out
}

func versionsText(versions []archive.Version) string {
	var out []string
	for _, v := range versions {
		text := fmt.Sprintf("%s received %s in %d series", v.Trust, counted(v.Instances, "instance", "instances"), v.Series)
		if len(v.Modalities) > 0 {
			text += " (" + strings.Join(shortly(v.Modalities), ", ") + ")"
		}
		if v.LostOf > 0 {
			text += fmt.Sprintf(", of %d that it had before it was restored from an older backup", v.LostOf)
		}
		for _, t := range v.Fuller {
			text += fmt.Sprintf(", and %s holds a copy with more", t)
		}
		if v.Unlisted {
			text += ", and names no list of them that can be read: they are not shown"
		}
		if v.Stranger {
			text += " that name, or may name, another patient and are not shown"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

func versionsJSON(versions []archive.Version) []StudyVersion {
	out := []StudyVersion{}
	for _, v := range versions {
		x := StudyVersion{Node: v.Node.String(), Trust: string(v.Trust), Modalities: slices.Concat([]string{}, v.Modalities),
			Series: v.Series, Instances: v.Instances, Copies: []string{}, OtherPatient: v.Stranger, Unlisted: v.Unlisted}
		for _, t := range v.Copies {
			x.Copies = append(x.Copies, string(t))
		}
		out = append(out, x)
	}
	return out
}
