package archive

import (
	"context"
	"errors"
	"slices"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
)

// Found is one study, whoever says it.
type Found struct {
	index.Study                 // as this node says it, else as the author with the most instances does
	Here        bool            // whole in this node's store
	Damaged     bool            // what was received here is not whole any more
	Trusts      []index.TrustID // that received it
	Copies      []index.TrustID // that hold a whole copy
	Instances   int             // as many as any one author says
}

// Studies answers a query from the index alone. A study that is being erased is
// left out.
func (a *Archive) Studies(q index.Query) ([]Found, index.Answer, error) {
	ans, err := a.Index.Studies(q)
	if err != nil {
		return nil, ans, err
	}
	out := make([]Found, 0, len(ans.Studies))
	for _, s := range ans.Studies {
		f, err := a.found(s)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, ans, err
		}
		out = append(out, f)
	}
	return out, ans, nil
}

func (a *Archive) found(s index.StudyAnswer) (Found, error) {
	var f Found
	if a.erase.under(sourceID{Study: s.UID}) {
		return f, ErrNotFound
	}
	for i, st := range s.Statements {
		switch {
		case i == 0, st.Author == a.Self: // what was received here is what the local PACS knows
			f.Study = st.Value
		case f.Study.Instances < st.Value.Instances && !slices.ContainsFunc(s.Statements, func(x index.Authored[index.Study]) bool { return x.Author == a.Self }):
			f.Study = st.Value
		}
		if st.Author == a.Self {
			f.Trusts = slices.Insert(f.Trusts, 0, st.Trust)
		} else if !slices.Contains(f.Trusts, st.Trust) {
			f.Trusts = append(f.Trusts, st.Trust)
		}
		f.Instances = max(f.Instances, st.Value.Instances)
	}
	for _, st := range s.Statements {
		f.Mixed = f.Mixed || strangers(f.Study, st.Value)
	}
	for _, h := range s.Holdings {
		if h.Value.Instances > 0 && !slices.Contains(f.Trusts, h.Trust) && !slices.Contains(f.Copies, h.Trust) {
			f.Copies = append(f.Copies, h.Trust)
		}
	}
	// Between two publications of a growing study the catalogue knows more.
	own, err := a.source(sourceID{Study: s.UID, Origin: a.Self})
	if err == nil {
		f.Instances, f.Bytes = max(f.Instances, own.Instances), max(f.Bytes, own.Bytes)
	} else if !errors.Is(err, errNoRecord) {
		return f, err
	}
	f.Damaged = a.damage.ill(sourceID{s.UID, a.Self})
	if f.Here, err = a.Here(s.UID); err != nil || !f.Here {
		return f, err
	}
	sources, err := a.sourcesOf(s.UID)
	for origin, x := range sources {
		f.Here = f.Here && x.Conflicts == 0 && !a.damage.ill(sourceID{s.UID, origin})
	}
	return f, err
}

// Listed is a series or instance of a study, with its query attributes.
type Listed struct {
	Study, Series, Instance dicom.UID
	SeriesAttrs, Attrs      dicom.Dataset
	TransferSyntax          dicom.UID // of an instance that is here
	Size                    int64
	Here                    bool
}

// List lists the instances of a study or series in reading order. The list of
// a remote study is fetched once and kept, if bring is set; the instances are
// not. Errors are those of Objects, and ErrNotListed.
func (a *Archive) List(ctx context.Context, ref Ref, bring bool) ([]Listed, error) {
	versions, err := a.versions(string(ref.Study))
	if err != nil {
		return nil, err
	}
	var out []Listed
	seen := make(map[string]bool)
	for _, v := range versions {
		if v.stranger {
			continue
		}
		id := v.id
		entries, err := a.entries(ctx, id, ref, bring)
		if err != nil && versions[0].own && !v.own && ctx.Err() == nil {
			continue // what was received here is listed whoever else is out of reach
		}
		if err != nil {
			return nil, err
		}
		damaged, all, err := a.damagedInstances(id)
		if err != nil {
			return nil, err
		}
		series := make(map[string]dicom.Dataset)
		for _, e := range entries {
			if seen[e.inst.UID] {
				continue
			}
			seen[e.inst.UID] = true
			l := Listed{Study: ref.Study, Series: dicom.UID(e.series.UID), Instance: dicom.UID(e.inst.UID), Size: e.inst.Size}
			rec, err := a.instanceOf(id, e.series.UID, e.inst.UID)
			if err == nil {
				l.Here, l.TransferSyntax = !all && !damaged[e.inst.UID], dicom.UID(rec.TransferSyntax)
			}
			var ok bool
			if l.SeriesAttrs, ok = series[e.series.UID]; !ok {
				raw := e.series.Attrs
				if id.Origin == a.Self && raw == nil {
					if raw, err = a.seriesAttrs(id, e.series.UID); err != nil {
						return nil, err
					}
				}
				if l.SeriesAttrs, err = dicom.Decode(raw, a.Limits); err != nil {
					return nil, err
				}
				series[e.series.UID] = l.SeriesAttrs
			}
			if l.Attrs, err = dicom.Decode(e.inst.Attrs, a.Limits); err != nil {
				return nil, err
			}
			out = append(out, l)
		}
	}
	return out, nil
}
