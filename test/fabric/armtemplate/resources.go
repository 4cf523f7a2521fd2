package armtemplate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Resource is one resource of a template, or one iteration of a copy loop.
type Resource struct {
	Type, Name string
	ID, Group  string
	APIVersion string
	Existing   bool        // only referred to, not deployed
	Skipped    bool        // its condition is false
	Needs      []*Resource // the resources that must be deployed before it

	symbol, loop string // symbolic name; name of the copy loop
	raw          object
	scope        *scope
}

// Conditional reports whether the resource has a condition.
func (r *Resource) Conditional() bool { return r.raw["condition"] != nil }

// Linked reports whether the resource is a deployment whose template is at
// another URL.
func (r *Resource) Linked() bool {
	properties, _ := r.raw["properties"].(object)
	return r.nested() && properties["templateLink"] != nil
}

// Check finds errors in the resource's expressions before anything is deployed.
func (r *Resource) Check() error { return ignoreLater(r.body(r.scope)) }

// Body returns the body of the PUT. The resources that it needs must have been
// deployed.
func (r *Resource) Body() (Object, error) {
	s := *r.scope
	s.stage = atRun
	return r.body(&s)
}

// Resources returns the resources of the template, each with those that it
// needs.
func (t *Template) Resources() ([]*Resource, error) {
	t.resources = nil
	if err := t.expand(&scope{t: t, stage: atPlan}, t.template["resources"], nil); err != nil {
		return nil, err
	}
	for _, r := range t.resources {
		if err := t.findNeeds(r); err != nil {
			return nil, err
		}
	}
	if err := t.refuseCircles(); err != nil {
		return nil, err
	}
	return t.resources, nil
}

// expand adds the resources of a template or of another resource: a list, or an
// object by symbolic name.
func (t *Template) expand(s *scope, resources any, parent *Resource) error {
	add := func(key string, v any) error {
		raw, ok := v.(object)
		if !ok {
			return errors.New("a resource is not an object")
		}
		loop, isLoop := raw["copy"].(object)
		if !isLoop {
			return t.add(s, raw, key, "", parent)
		}
		name := text(loop["name"])
		n, err := s.count(loop["count"])
		if err != nil {
			return err
		}
		batch, made := 0, []*Resource{}
		if strings.EqualFold(text(loop["mode"]), "serial") {
			batch = 1
			if size, err := integer(loop["batchSize"]); err == nil && size > 0 {
				batch = int(size)
			}
		}
		for i := range n {
			inner := s.in(name, i)
			at := len(t.resources)
			if err := t.add(inner, raw, key, name, parent); err != nil {
				return err
			}
			made = append(made, t.resources[at])
			if batch > 0 && i >= batch { // depends on the previous batch
				t.resources[at].Needs = slices.Clone(made[i/batch*batch-batch : i/batch*batch])
			}
		}
		return nil
	}
	switch list := resources.(type) {
	case []any:
		for _, v := range list {
			if err := add("", v); err != nil {
				return err
			}
		}
	case object:
		for _, key := range sortedKeys(list) {
			if err := add(key, list[key]); err != nil {
				return err
			}
		}
	}
	if len(t.resources) > maxCopies {
		return fmt.Errorf("the template has more than %d resources", maxCopies)
	}
	return nil
}

func (t *Template) add(s *scope, raw object, key, loop string, parent *Resource) error {
	r := &Resource{symbol: key, loop: loop, raw: raw, scope: s, Group: text(t.host.ResourceGroup()["name"]), Existing: raw["existing"] == true}
	for _, field := range []struct {
		name string
		into *string
	}{{"type", &r.Type}, {"name", &r.Name}, {"apiVersion", &r.APIVersion}, {"resourceGroup", &r.Group}} {
		v, err := s.value(raw[field.name])
		if err == nil && v == nil && field.name == "resourceGroup" {
			continue
		}
		ok := false
		if *field.into, ok = v.(string); err == nil && (!ok || *field.into == "") {
			err = fmt.Errorf("'%s' is required and must be a string", field.name)
		}
		if err != nil {
			return fmt.Errorf("the template resource '%s' is not valid: %w", text(raw["name"]), err)
		}
	}
	if parent != nil {
		r.Type, r.Name = parent.Type+"/"+r.Type, parent.Name+"/"+r.Name
	}
	if raw["scope"] != nil {
		return fmt.Errorf("the template resource '%s' has a scope, which is not supported here", r.Name)
	}
	var err error
	if r.ID, err = joinID("/subscriptions/"+text(t.host.Subscription()["subscriptionId"])+"/resourceGroups/"+r.Group, r.Type, strings.Split(r.Name, "/")); err != nil {
		return fmt.Errorf("the template resource '%s' for type '%s' has incorrect segment lengths. A nested resource type must have identical number of segments as its resource name. A root resource type must have segment length one greater than its resource name. Please see https://aka.ms/arm-syntax-resources for usage details", r.Name, r.Type)
	}
	if slices.ContainsFunc(t.resources, func(x *Resource) bool { return strings.EqualFold(x.ID, r.ID) }) {
		return fmt.Errorf("the resource '%s' is defined multiple times in a template. Please see https://aka.ms/arm-syntax-resources for usage details", r.ID)
	}
	if c, ok := raw["condition"]; ok {
		v, err := s.value(c)
		holds, isBool := v.(bool)
		if err != nil || !isBool {
			return fmt.Errorf("the condition of the template resource '%s' is not valid: %w", r.Name, cmp.Or(err, errArgument))
		}
		r.Skipped = !holds
	}
	t.resources = append(t.resources, r)
	return t.expand(s, raw["resources"], r)
}

// named returns the resources that a name refers to: an ID, a type and names, a
// name, a symbolic name, or a loop.
func (t *Template) named(name string) (out []*Resource) {
	for _, r := range t.resources {
		path, _ := joinID("", r.Type, strings.Split(r.Name, "/")) // succeeded before
		turn := ""
		if r.symbol != "" && r.loop != "" {
			turn = fmt.Sprintf("%s[%d]", r.symbol, r.scope.loops[strings.ToLower(r.loop)])
		}
		for _, candidate := range []string{turn, r.ID, strings.TrimPrefix(path, "/providers/"), r.Type + "/" + r.Name, r.Name, r.symbol, r.loop} {
			if candidate != "" && strings.EqualFold(candidate, name) {
				out = append(out, r)
				break
			}
		}
	}
	return out
}

// findNeeds collects the resources to wait for: those in dependsOn, and those
// that expressions refer to.
func (t *Template) findNeeds(r *Resource) error {
	list, _ := r.raw["dependsOn"].([]any)
	for _, v := range list {
		v, err := r.scope.value(v)
		name, ok := v.(string)
		if err != nil || !ok {
			return fmt.Errorf("the template resource '%s' has an invalid dependency: %w", r.Name, cmp.Or(err, errArgument))
		}
		found := t.named(name)
		if len(found) == 0 {
			return fmt.Errorf("the resource '%s' is not defined in the template. Please see https://aka.ms/arm-syntax for usage details", name)
		}
		r.Needs = append(r.Needs, found...)
	}
	refers := maps.Clone(r.raw)
	delete(refers, "resources")
	if r.nested() && r.inner() {
		delete(refers, "properties")
	}
	for _, e := range t.references(refers) {
		if v, err := r.scope.eval(e); err == nil { // otherwise it can only be evaluated later
			r.Needs = append(r.Needs, t.named(text(v))...)
		}
	}
	return nil
}

func (t *Template) refuseCircles() error {
	seen := map[*Resource]int{} // 1 under way, 2 done
	var visit func(*Resource) error
	visit = func(r *Resource) error {
		switch seen[r] {
		case 1:
			return fmt.Errorf("circular dependency detected on resource: '%s'. Please see https://aka.ms/arm-syntax-resources for usage details", r.ID)
		case 2:
			return nil
		}
		seen[r] = 1
		for _, other := range r.Needs {
			if err := visit(other); err != nil {
				return err
			}
		}
		seen[r] = 2
		return nil
	}
	for _, r := range t.resources {
		if err := visit(r); err != nil {
			return err
		}
	}
	return nil
}

func (r *Resource) nested() bool {
	return strings.EqualFold(r.Type, "Microsoft.Resources/deployments")
}

// inner reports whether a nested template has parameters and variables of its
// own.
func (r *Resource) inner() bool {
	properties, _ := r.raw["properties"].(object)
	options, _ := properties["expressionEvaluationOptions"].(object)
	return strings.EqualFold(text(options["scope"]), "inner")
}

// body returns the body of the PUT.
func (r *Resource) body(s *scope) (object, error) {
	if r.Existing {
		return object{}, nil
	}
	raw := object{}
	for key, v := range r.raw {
		switch key {
		case "name", "type", "apiVersion", "dependsOn", "condition", "copy", "resources", "comments", "metadata", "scope", "existing", "resourceGroup", "subscriptionId":
		default:
			raw[key] = v
		}
	}
	var template any
	if properties, ok := raw["properties"].(object); ok && r.nested() {
		properties = maps.Clone(properties)
		if template = properties["template"]; template != nil && r.inner() {
			delete(properties, "template")
		}
		raw["properties"] = properties
	}
	v, err := s.value(raw)
	if err != nil {
		return nil, err
	}
	out := v.(object) //nolint:forcetypeassert // the value of an object is an object
	if properties, ok := out["properties"].(object); ok && template != nil {
		if r.inner() {
			properties["template"] = template
		} else {
			properties["template"] = escaped(properties["template"])
		}
	}
	return out, nil
}

// escaped prevents a second evaluation of an evaluated value.
func escaped(v any) any {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "[") && strings.HasSuffix(v, "]") {
			return "[" + v
		}
		return v
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = escaped(item)
		}
		return out
	case object:
		out := object{}
		for key, item := range v {
			out[key] = escaped(item)
		}
		return out
	}
	return v
}

// reference implements reference(), for a resource of the template or any other
// by its ID.
func reference(s *scope, a []any) (any, error) {
	if s.stage != atRun {
		return nil, errLater
	}
	name, version := text(a[0]), ""
	if found := s.t.named(name); len(found) > 0 {
		name, version = found[0].ID, found[0].APIVersion
	} else if !strings.HasPrefix(name, "/") {
		return nil, fmt.Errorf("the template reference '%s' is not valid: could not find template resource or resource copy with this name. Please see https://aka.ms/arm-function-reference for usage details", name)
	}
	if len(a) > 1 && text(a[1]) != "" {
		version = text(a[1])
	}
	return s.t.host.Reference(name, version, len(a) == 3 && strings.EqualFold(text(a[2]), "Full"))
}
